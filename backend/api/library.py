"""The library as AutoGPT's clients know it: each graph is in it as one agent, which has the id of the graph."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from backend.api import graph_settings, graph_versions, graphs, starts
from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.conditions import IfMatch
from backend.api.graph_settings import GraphSettings
from backend.api.graph_versions import ActiveVersion
from backend.api.graphs import Schema, SearchText, Version, existing_graph
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import (
    IncludedGraph,
    InvalidCursor,
    PreconditionFailed,
    TooLarge,
    UnknownGraph,
    UnsupportedMediaType,
)
from backend.execution.runnable import CheckedGraph, check, check_all
from backend.graphs.graph import MAX_VERSION
from backend.store.graphs import StoredGraph, whole_page
from backend.store.graphs import count as count_of

router = APIRouter(prefix="/api/v2", tags=["library"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_LIBRARY)]
Writer = Annotated[Caller, needs(Permission.WRITE_LIBRARY)]


class LibraryAgent(BaseModel):
    """A graph, in its active version, as somebody who uses it sees it."""

    id: UUID = Field(description="the id of the graph")
    graph_id: UUID
    graph_version: int
    name: str
    description: str
    instructions: str | None
    input_schema: Schema = Field(description="JSON Schema of the inputs of a run")
    output_schema: Schema = Field(description="JSON Schema of the outputs of a run")
    credentials_input_schema: Schema
    has_external_trigger: bool
    has_human_in_the_loop: bool
    has_sensitive_action: bool
    trigger_setup_info: Schema | None
    recommended_schedule_cron: str | None
    created_at: datetime
    updated_at: datetime = Field(description="when this version was stored")


class AgentChange(BaseModel):
    """What is to be different. What is left out stays as it is."""

    graph_version: int | None = Field(
        default=None, ge=1, le=MAX_VERSION, description="the version to use", examples=[1]
    )
    settings: GraphSettings | None = None


LINKS = links("graph_id", "get_library_agent", "start_library_agent_run", "get_graph")


@router.get(
    "/library/agents",
    operation_id="list_library_agents",
    summary="List the agents, newest first",
    responses=documented(InvalidCursor),
)
async def list_(
    use: Use, caller: Reader, after: After, limit: Limit = 20, name: SearchText = None
) -> Page[LibraryAgent]:
    found = await whole_page(use.database, caller.user_id, limit=limit + 1, before=after, name=name)
    rows, next_cursor = cut(found, limit)
    total_count = await count_of(use.database, caller.user_id, name)
    agents = list(map(_agent, rows, await check_all(use.database, rows)))
    return Page(items=agents, next_cursor=next_cursor, total_count=total_count)


@router.get(
    "/library/agents/{graph_id:uuid}",
    operation_id="get_library_agent",
    summary="Show an agent",
    responses=documented(UnknownGraph),
)
async def show(graph_id: UUID, use: Use, caller: Reader, response: Response) -> LibraryAgent:
    """The `ETag` is that of the graph."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, None)
    response.headers["ETag"] = (await graphs.described(use.database, stored)).tag
    return _agent(stored, await check(use.database, stored))


@router.get(
    "/graphs/{graph_id:uuid}/library-agent",
    operation_id="get_graph_library_agent",
    summary="Show the agent that a graph is",
    responses=documented(UnknownGraph),
)
async def of_graph(graph_id: UUID, use: Use, caller: Reader, response: Response) -> LibraryAgent:
    return await show(graph_id, use, caller, response)


@router.patch(
    "/library/agents/{graph_id:uuid}",
    operation_id="change_library_agent",
    summary="Use another version of an agent, or change its settings",
    responses=documented(UnknownGraph, PreconditionFailed, TooLarge, UnsupportedMediaType),
)
async def change(
    graph_id: UUID, use: Use, caller: Writer, response: Response, body: AgentChange, if_match: IfMatch = None
) -> LibraryAgent:
    if body.settings:
        await graph_settings.change(graph_id, use, caller, response, body.settings, if_match)
        if_match = None  # what it stands for has just been changed
    if body.graph_version:
        wanted = ActiveVersion(active_graph_version=body.graph_version)
        await graph_versions.activate(graph_id, use, caller, wanted, if_match)
    return await show(graph_id, use, caller, response)


@router.delete(
    "/library/agents/{graph_id:uuid}",
    status_code=204,
    operation_id="delete_library_agent",
    summary="Delete an agent: its graph, in all versions",
    responses=documented(UnknownGraph, IncludedGraph, PreconditionFailed),
)
async def delete(graph_id: UUID, use: Use, caller: Writer, if_match: IfMatch = None) -> None:
    """Its runs stay; those that have not ended go on."""
    await graphs.delete(graph_id, use, caller, if_match)


@router.post(
    "/library/agents/{graph_id:uuid}/fork",
    status_code=201,
    operation_id="fork_library_agent",
    summary="Copy an agent",
    responses=documented(UnknownGraph) | {201: {"links": LINKS, "description": "the copy is stored"}},
)
async def fork(graph_id: UUID, use: Use, caller: Writer, response: Response, version: Version = None) -> LibraryAgent:
    copy = await graphs.forked(use.database, caller, graph_id, version)
    response.headers["Location"] = f"{router.prefix}/library/agents/{copy.id}"
    return _agent(copy, await check(use.database, copy))


# Whatever may be said of a start of a graph may be said here.
[_start] = [
    route for route in starts.router.routes if isinstance(route, APIRoute) and route.operation_id == "start_run"
]
router.add_api_route(
    "/library/agents/{graph_id:uuid}/runs",
    _start.endpoint,
    methods=["POST"],
    status_code=_start.status_code,
    response_model=_start.response_model,
    operation_id="start_library_agent_run",
    summary="Start a run of an agent",
    responses=_start.responses,
)


def _agent(stored: StoredGraph, checked: CheckedGraph) -> LibraryAgent:
    graph = checked.graph
    return LibraryAgent(
        **checked.derived,
        id=stored.id,
        graph_id=stored.id,
        graph_version=stored.version,
        name=graph.name,
        description=graph.description,
        instructions=graph.instructions,
        recommended_schedule_cron=graph.recommended_schedule_cron,
        created_at=stored.created_at,
        updated_at=stored.updated_at,
    )
