"""The resource /graphs: agents, taken and given as agent files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar, cast
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.blocks import BlockDescription
from backend.api.body import read_json_bytes
from backend.api.conditions import IfMatch, IfNoneMatch, check_match, is_known, tag_of
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.blocks import registry
from backend.errors import (
    GraphIdMismatch,
    IncludedGraph,
    InvalidCursor,
    InvalidGraphFile,
    MalformedJson,
    NoMoreVersions,
    PreconditionFailed,
    TooLarge,
    UnknownGraph,
    UnsupportedMediaType,
)
from backend.execution.runnable import check, missing_calls
from backend.graphs import exchange
from backend.graphs.faults import GraphFileError, printable
from backend.graphs.graph import MAX_VERSION, Graph, with_new_ids
from backend.graphs.structure import parse
from backend.graphs.validation import Problem, problems
from backend.store import graph_settings, graphs
from backend.store.connection import Queryable
from backend.store.graphs import ListedGraph, StoredGraph
from backend.store.identifiers import is_id

router = APIRouter(prefix="/api/v2/graphs", tags=["graphs"])

Reader = Annotated[Caller, needs(Permission.READ_GRAPH)]
Writer = Annotated[Caller, needs(Permission.WRITE_GRAPH)]

Schema = dict[str, Any]
Version = Annotated[
    int | None, Query(ge=1, le=MAX_VERSION, description="a version of the graph; left out: the active one")
]


class GraphSummary(BaseModel):
    """A graph as it is listed."""

    id: UUID
    version: int
    is_active: bool
    name: str
    description: str
    created_at: datetime = Field(description="when the first version was stored; in a list of versions, this one")
    updated_at: datetime = Field(description="when this version was stored")


class GraphDetail(Graph):
    """A graph with what follows from its nodes. It can run when `problems` is empty."""

    created_at: datetime = Field(description="when the first version was stored")
    updated_at: datetime = Field(description="when this version was stored")
    input_schema: Schema = Field(description="JSON Schema of the inputs of a run")
    output_schema: Schema = Field(description="JSON Schema of the outputs of a run")
    credentials_input_schema: Schema
    has_external_trigger: bool
    has_human_in_the_loop: bool
    has_sensitive_action: bool
    trigger_setup_info: Schema | None
    problems: list[Problem] = Field(description="what keeps the graph from running")


EXAMPLE = {
    "name": "Echo",
    "description": "Gives back what it is given",
    "nodes": [
        {
            "id": "in",
            "block_id": "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b",
            "input_default": {"name": "Input"},
            "metadata": {},
        },
        {
            "id": "out",
            "block_id": "363ae599-353e-4804-937e-b2ee3cef3da4",
            "input_default": {"name": "Output"},
            "metadata": {},
        },
    ],
    "links": [{"source_id": "in", "sink_id": "out", "source_name": "result", "sink_name": "value"}],
}

TEXT = {"type": "string"}
NODE = {
    "type": "object",
    "required": ["id", "block_id"],
    "properties": {"id": TEXT, "block_id": TEXT, "input_default": {"type": ["object", "null"]}},
}
ENDS = {"source_id": TEXT, "sink_id": TEXT, "source_name": TEXT, "sink_name": TEXT}
LINK = {"type": "object", "required": list(ENDS), "properties": ENDS}
AGENT_FILE = {
    "type": "object",
    "required": ["nodes"],
    "properties": {
        "name": {"type": ["string", "null"]},
        "description": {"type": ["string", "null"]},
        "nodes": {"type": "array", "items": NODE},
        "links": {"type": ["array", "null"], "items": LINK},
        "sub_graphs": {"type": ["array", "null"], "items": {"type": "object"}},
    },
}

REQUEST_BODY = {
    "required": True,
    "description": 'An agent file as AutoGPT exports it, as it is or as {"graph": file}.',
    "content": {"application/json": {"schema": AGENT_FILE, "example": EXAMPLE}},
}

ANYTHING = REQUEST_BODY | {"content": {"application/json": {"schema": {}, "example": EXAMPLE}}}

SearchText = Annotated[str | None, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="part of it")]
FILE_ERRORS = documented(MalformedJson, TooLarge, UnsupportedMediaType, InvalidGraphFile)
LINKS = links("graph_id", "get_graph", "update_graph", "list_graph_versions", "export_graph", "start_run")
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "it is as `If-None-Match` says"}}


@router.post(
    "",
    status_code=201,
    operation_id="create_graph",
    summary="Store an agent file",
    response_model=GraphDetail,
    responses=FILE_ERRORS | {201: {"links": LINKS, "description": "it is stored"}},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def create(request: Request, use: Use, caller: Writer) -> Response:
    """Every file that is sound in structure is stored, with new ids; `problems` tells what keeps it from running."""
    graph = _sound(await _file(request), exchange.read)
    return await _created(use.database, await _insert_first(use.database, caller, graph))


async def _insert_first(database: Queryable, caller: Caller, graph: Graph) -> StoredGraph:
    first = graph.as_version(1)
    return await graphs.insert(database, UUID(first.id), 1, first.name, first.model_dump(), caller.user_id)


async def _created(database: Queryable, stored: StoredGraph) -> Response:
    return answered(await described(database, stored), 201, Location=f"{router.prefix}/{stored.id}")


async def _file(request: Request) -> object:
    """The agent file in the body, wrapped or not."""
    file = _sound(await read_json_bytes(request), parse)
    if not isinstance(file, dict):
        return file
    members = cast("dict[str, object]", file)
    return members["graph"] if "graph" in members and "nodes" not in members else members


T = TypeVar("T")
Given = TypeVar("Given")


def _sound(file: Given, read: Callable[[Given], T]) -> T:
    """What is read from a file; its faults are raised as those of the request."""
    try:
        return read(file)
    except GraphFileError as error:
        faults = [fault._asdict() for fault in error.faults]
        if faults[0]["code"] == "not_json":
            raise MalformedJson(str(error)) from None
        raise InvalidGraphFile(str(error), errors=faults) from None


class FileFault(BaseModel):
    """A part of an agent file that is wrong."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) into the file", examples=["/links/0/sink_id"])
    code: str = Field(examples=["unknown_node"])
    message: str


class Validation(BaseModel):
    """What is wrong with an agent file. Nothing is, if it is `valid`: it can be stored, and run."""

    valid: bool
    errors: list[FileFault] = Field(description="faults of structure: with any of them it is refused")
    problems: list[Problem] = Field(description="what would keep it from running, by the ids in the file")


@router.post(
    "/validate",
    operation_id="validate_graph",
    summary="Check an agent file",
    responses=documented(MalformedJson, TooLarge, UnsupportedMediaType),
    openapi_extra={"requestBody": ANYTHING},
)
async def validate(request: Request, use: Use, caller: Reader) -> Validation:
    """Tells everything that is wrong with it. Nothing is stored or run."""
    try:
        graph = _sound(await _file(request), exchange.read_with_ids)
    except InvalidGraphFile as error:
        return Validation(valid=False, errors=[FileFault(**each) for each in error.errors], problems=[])
    found = problems(graph, registry.catalogue(), registry.known_names())
    found += await missing_calls(use.database, caller.user_id, graph)
    return Validation(valid=not found, errors=[], problems=found)


@router.get(
    "",
    operation_id="list_graphs",
    summary="List the graphs, newest first",
    responses=documented(InvalidCursor),
)
async def list_(
    use: Use, caller: Reader, after: After, limit: Limit = 20, name: SearchText = None
) -> Page[GraphSummary]:
    """`name` is part of the names that are listed, in capitals or not. A new version of a graph does not move it."""
    rows, next_cursor = cut(
        await graphs.page(use.database, caller.user_id, limit=limit + 1, before=after, name=name), limit
    )
    total_count = await graphs.count(use.database, caller.user_id, name)
    return Page(items=[summary(row) for row in rows], next_cursor=next_cursor, total_count=total_count)


@router.get(
    "/{graph_id:uuid}",
    operation_id="get_graph",
    summary="Show a graph",
    response_model=GraphDetail,
    responses=documented(UnknownGraph) | NOT_MODIFIED,
)
async def show(
    graph_id: UUID, use: Use, caller: Reader, version: Version = None, if_none_match: IfNoneMatch = None
) -> Response:
    """Its `ETag` is for `If-None-Match` here and `If-Match` of what changes the graph: it stands for the version
    that is answered, its `problems`, and the settings."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    return answered(await described(use.database, stored), 200, if_none_match)


@router.put(
    "/{graph_id:uuid}",
    operation_id="update_graph",
    summary="Store a new version of a graph",
    response_model=GraphDetail,
    responses=FILE_ERRORS
    | documented(MalformedJson, GraphIdMismatch, UnknownGraph, NoMoreVersions, PreconditionFailed)
    | {200: {"links": LINKS, "description": "it is stored, and the active version"}},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def update(graph_id: UUID, request: Request, use: Use, caller: Writer, if_match: IfMatch = None) -> Response:
    """The new version has the number after the highest, and is the active one. Ids of nodes and links that are UUIDs
    stay as they are, as do those of sub-graphs of this graph, which get new versions too; calls of graphs in the file
    lead to these. Runs that there are keep the version they began with."""
    graph = _sound(_with_id(await _file(request), graph_id), exchange.read_with_ids)
    async with use.database.acquire() as connection, connection.transaction():
        before = await locked(connection, caller, graph_id, if_match)
        stored = await _insert_next(connection, before, graph)
    return answered(await described(use.database, stored))


def _with_id(file: object, graph_id: UUID) -> object:
    """The file with the id that it is to have: only so calls of itself lead to it."""
    if not isinstance(file, dict):
        return file
    members = cast("dict[str, object]", file)
    given = members.get("id")
    if isinstance(given, str) and given.lower() != str(graph_id):
        raise GraphIdMismatch(f"The body has the id {printable(given[:80])!r}: it has to be {graph_id}, or left out.")
    return members if given is not None and not isinstance(given, str) else members | {"id": str(graph_id)}


async def locked(connection: Queryable, caller: Caller, graph_id: UUID, if_match: str | None) -> StoredGraph:
    """The active version of a graph that nobody else changes until the transaction ends, if it is as wanted."""
    family = (await existing_graph(connection, caller.user_id, graph_id, None)).belongs_to
    await graphs.lock(connection, family)
    stored = await existing_graph(connection, caller.user_id, graph_id, None)  # as it is now
    if if_match is not None:
        check_match(if_match, (await described(connection, stored)).tag)
    return stored


async def _insert_next(connection: Queryable, before: StoredGraph, graph: Graph) -> StoredGraph:
    versions = await _next_versions(connection, before, graph)
    before_that = (await check(connection, before)).graph
    after = with_new_ids(graph, versions).model_copy(
        update={
            "is_active": True,
            "forked_from_id": before_that.forked_from_id,
            "forked_from_version": before_that.forked_from_version,
        }
    )
    await graphs.deactivate(connection, [UUID(id) for id in versions])
    return await graphs.insert(
        connection, before.id, after.version, after.name, after.model_dump(), before.user_id, before.included_in
    )


async def _next_versions(connection: Queryable, before: StoredGraph, graph: Graph) -> dict[str, int]:
    """The numbers of the new versions of the graph and of those of its sub-graphs that are its own."""
    below = [UUID(each.id) for each in graph.walk() if each is not graph and is_id(each.id)]
    newest = await graphs.newest_included(connection, before.belongs_to, below)
    newest[before.id] = await graphs.newest_version(connection, before.id) or 0
    for id, version in newest.items():
        if version >= MAX_VERSION:
            other = "" if id == before.id else ": give it another id"
            raise NoMoreVersions(f"The graph {id} has the version {version}, after which there is none{other}.")
    return {str(id): version + 1 for id, version in newest.items()}


@router.delete(
    "/{graph_id:uuid}",
    status_code=204,
    operation_id="delete_graph",
    summary="Delete a graph in all its versions",
    responses=documented(UnknownGraph, IncludedGraph, PreconditionFailed),
)
async def delete(graph_id: UUID, use: Use, caller: Writer, if_match: IfMatch = None) -> None:
    """It cannot be seen, started or called any more, nor can its sub-graphs. Its runs stay; those that have not ended
    go on."""
    async with use.database.acquire() as connection, connection.transaction():
        stored = await locked(connection, caller, graph_id, if_match)
        if stored.included_in:
            raise IncludedGraph(f"The graph came in the file of {stored.included_in}: it is deleted with that one.")
        await graphs.delete(connection, graph_id)


@router.post(
    "/{graph_id:uuid}/fork",
    status_code=201,
    operation_id="fork_graph",
    summary="Copy a graph",
    response_model=GraphDetail,
    responses=documented(UnknownGraph) | {201: {"links": LINKS, "description": "the copy is stored"}},
)
async def fork(graph_id: UUID, use: Use, caller: Writer, version: Version = None) -> Response:
    """The copy is a graph of its own, with new ids, and says what it is `forked_from`."""
    return await _created(use.database, await forked(use.database, caller, graph_id, version))


async def forked(database: Queryable, caller: Caller, graph_id: UUID, version: int | None) -> StoredGraph:
    """A copy that is stored as a graph of its own."""
    stored = await existing_graph(database, caller.user_id, graph_id, version)
    copy = with_new_ids((await check(database, stored)).graph).model_copy(
        update={
            "name": f"{stored.name} (copy)",
            "forked_from_id": str(stored.id),
            "forked_from_version": stored.version,
        }
    )
    return await _insert_first(database, caller, copy)


@router.get(
    "/{graph_id:uuid}/blocks",
    operation_id="list_graph_blocks",
    summary="List the blocks that a graph uses",
    responses=documented(UnknownGraph),
)
async def blocks(graph_id: UUID, use: Use, caller: Reader, version: Version = None) -> list[BlockDescription]:
    """Each is there once. Blocks that this server does not have are among the `problems` of the graph instead."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    graph, known = (await check(use.database, stored)).graph, registry.blocks()
    used = {known[node.block_id] for node in graph.nodes if node.block_id in known}
    return [
        BlockDescription.model_validate(registry.describe(block)) for block in sorted(used, key=lambda each: each.name)
    ]


@router.get(
    "/{graph_id:uuid}/export",
    operation_id="export_graph",
    summary="Download a graph as an agent file",
    responses=documented(UnknownGraph)
    | {
        200: {
            "description": "the agent file",
            "content": {"application/json": {"schema": AGENT_FILE, "example": EXAMPLE}},
        }
    },
)
async def export(graph_id: UUID, use: Use, caller: Reader, version: Version = None) -> Response:
    """The file imports to the same graph. Secrets are left out."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    graph = (await check(use.database, stored)).graph
    file = exchange.export(graph, registry.catalogue()) | {"is_active": stored.is_active}
    headers = {"Content-Disposition": f'attachment; filename="agent-{stored.id}-v{stored.version}.json"'}
    return Response(orjson.dumps(file, option=orjson.OPT_INDENT_2), headers=headers, media_type="application/json")


async def existing_graph(database: Queryable, user_id: UUID, graph_id: UUID, version: int | None) -> StoredGraph:
    """The graph, or UnknownGraph: so too if it is another's, or deleted."""
    stored = await graphs.get_kept(database, user_id, graph_id, version)
    if stored is None:
        raise UnknownGraph(f"There is no graph {graph_id}" + (f" in version {version}." if version else "."))
    return stored


def summary(listed: ListedGraph) -> GraphSummary:
    return GraphSummary(**{name: getattr(listed, name) for name in ListedGraph.__slots__})


class Described(NamedTuple):
    """A graph as JSON for clients, and the tag that stands for it and its settings."""

    body: bytes
    tag: str


async def described(database: Queryable, stored: StoredGraph) -> Described:
    body = (await detail(database, stored)).model_dump_json().encode()
    settings = await graph_settings.get(database, stored.id)
    return Described(body, tag_of(body + str(settings).encode()))


def answered(found: Described, status: int = 200, known: str | None = None, **headers: str) -> Response:
    """The answer that shows a graph, unless the client has it."""
    if is_known(known, found.tag):
        return Response(status_code=304, headers={"ETag": found.tag})
    return Response(found.body, status, headers | {"ETag": found.tag}, media_type="application/json")


async def detail(database: Queryable, stored: StoredGraph) -> GraphDetail:
    checked = await check(database, stored)
    graph, found = checked.graph, [*checked.problems, *await missing_calls(database, stored.user_id, checked.graph)]
    fields: dict[str, Any] = {name: getattr(graph, name) for name in Graph.model_fields}
    fields |= checked.derived | {
        "is_active": stored.is_active,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
        "problems": found,
    }
    return GraphDetail.model_construct(None, **fields)
