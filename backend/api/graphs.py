"""The resource /graphs: agents, taken and given as agent files."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, cast
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import read_json_bytes
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.blocks import registry
from backend.errors import InvalidCursor, InvalidGraphFile, MalformedJson, TooLarge, UnknownGraph, UnsupportedMediaType
from backend.execution.runnable import check, missing_calls
from backend.graphs import exchange
from backend.graphs.faults import GraphFileError
from backend.graphs.graph import MAX_VERSION, Graph
from backend.graphs.schemas import derived
from backend.graphs.structure import parse
from backend.graphs.validation import Problem
from backend.store import graphs
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph

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
    created_at: datetime


class GraphDetail(Graph):
    """A graph with what follows from its nodes. It can run when `problems` is empty."""

    created_at: datetime
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


@router.post(
    "",
    status_code=201,
    operation_id="create_graph",
    summary="Store an agent file",
    responses=documented(MalformedJson, TooLarge, UnsupportedMediaType, InvalidGraphFile)
    | {201: {"links": links("graph_id", "get_graph", "export_graph", "start_run"), "description": "it is stored"}},
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def create(request: Request, response: Response, use: Use, caller: Writer) -> GraphDetail:
    """Every file that is sound in structure is stored, with new ids; `problems` tells what keeps it from running."""
    graph = _read(await read_json_bytes(request))
    stored = await graphs.insert(
        use.database, UUID(graph.id), graph.version, graph.name, graph.model_dump(), caller.user_id
    )
    response.headers["Location"] = f"{router.prefix}/{stored.id}"
    return await _detail(use.database, stored)


def _read(raw: bytes) -> Graph:
    try:
        file = parse(raw)
        graph = exchange.read(_unwrapped(file))
    except GraphFileError as error:
        faults = [fault._asdict() for fault in error.faults]
        if faults[0]["code"] == "not_json":
            raise MalformedJson(str(error)) from None
        raise InvalidGraphFile(str(error), errors=faults) from None
    return graph.as_version(1)


def _unwrapped(file: object) -> object:
    if not isinstance(file, dict):
        return file
    members = cast("dict[str, object]", file)
    return members["graph"] if "graph" in members and "nodes" not in members else members


@router.get(
    "",
    operation_id="list_graphs",
    summary="List the graphs, newest first",
    responses=documented(InvalidCursor),
)
async def list_(use: Use, caller: Reader, after: After, limit: Limit = 20) -> Page[GraphSummary]:
    rows, next_cursor = cut(await graphs.page(use.database, caller.user_id, limit=limit + 1, before=after), limit)
    items = [_summary(row) for row in rows]
    return Page(items=items, next_cursor=next_cursor, total_count=await graphs.count(use.database, caller.user_id))


@router.get("/{graph_id}", operation_id="get_graph", summary="Show a graph", responses=documented(UnknownGraph))
async def show(graph_id: UUID, use: Use, caller: Reader, version: Version = None) -> GraphDetail:
    return await _detail(use.database, await existing_graph(use.database, caller, graph_id, version))


@router.get(
    "/{graph_id}/export",
    operation_id="export_graph",
    summary="Download a graph as an agent file",
    responses=documented(UnknownGraph)
    | {200: {"description": "the agent file", "content": {"application/json": {"schema": AGENT_FILE}}}},
)
async def export(graph_id: UUID, use: Use, caller: Reader, version: Version = None) -> Response:
    """The file imports to the same graph. Secrets are left out."""
    stored = await existing_graph(use.database, caller, graph_id, version)
    file = exchange.export(check(stored).graph, registry.catalogue())
    headers = {"Content-Disposition": f'attachment; filename="agent-{stored.id}-v{stored.version}.json"'}
    return Response(orjson.dumps(file, option=orjson.OPT_INDENT_2), headers=headers, media_type="application/json")


async def existing_graph(database: Queryable, caller: Caller, graph_id: UUID, version: int | None) -> StoredGraph:
    """The graph, or UnknownGraph: so too if it is another's."""
    stored = await graphs.get(database, graph_id, version)
    if stored is None or stored.user_id != caller.user_id:
        raise UnknownGraph(f"There is no graph {graph_id}" + (f" in version {version}." if version else "."))
    return stored


def _summary(stored: StoredGraph) -> GraphSummary:
    description = stored.document.get("description") or ""
    return GraphSummary(
        id=stored.id,
        version=stored.version,
        is_active=stored.is_active,
        name=stored.name,
        description=description,
        created_at=stored.created_at,
    )


async def _detail(database: Queryable, stored: StoredGraph) -> GraphDetail:
    checked = check(stored)
    graph, problems = checked.graph, [*checked.problems, *await missing_calls(database, stored.user_id, checked.graph)]
    fields: dict[str, Any] = {name: getattr(graph, name) for name in Graph.model_fields}
    fields |= derived(graph, registry.catalogue()) | {"created_at": stored.created_at, "problems": problems}
    return GraphDetail.model_construct(None, **fields)
