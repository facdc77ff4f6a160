"""The versions of a graph: which there are, and which of them is active."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from backend.api.body import JsonRoute
from backend.api.conditions import IfMatch, IfNoneMatch
from backend.api.graphs import (
    NOT_MODIFIED,
    GraphDetail,
    GraphSummary,
    Reader,
    Writer,
    answered,
    described,
    existing_graph,
    locked,
    summary,
)
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import InvalidCursor, PreconditionFailed, TooLarge, UnknownGraph, UnsupportedMediaType
from backend.graphs.graph import MAX_VERSION
from backend.store import graphs

router = APIRouter(prefix="/api/v2/graphs/{graph_id:uuid}/versions", tags=["graphs"], route_class=JsonRoute)


class ActiveVersion(BaseModel):
    """Which version of a graph is shown, run and listed where none is named."""

    active_graph_version: int = Field(ge=1, le=MAX_VERSION, examples=[1])


@router.get(
    "",
    operation_id="list_graph_versions",
    summary="List the versions of a graph, newest first",
    responses=documented(InvalidCursor, UnknownGraph),
)
async def list_(graph_id: UUID, use: Use, caller: Reader, after: After, limit: Limit = 20) -> Page[GraphSummary]:
    await existing_graph(use.database, caller.user_id, graph_id, None)
    rows, next_cursor = cut(await graphs.versions(use.database, graph_id, limit=limit + 1, before=after), limit)
    total_count = await graphs.count_versions(use.database, graph_id)
    return Page(items=[summary(row) for row in rows], next_cursor=next_cursor, total_count=total_count)


@router.get(
    "/active",
    operation_id="get_active_graph_version",
    summary="Say which version is active",
    responses=documented(UnknownGraph),
)
async def show_active(graph_id: UUID, use: Use, caller: Reader) -> ActiveVersion:
    stored = await existing_graph(use.database, caller.user_id, graph_id, None)
    return ActiveVersion(active_graph_version=stored.version)


@router.put(
    "/active",
    status_code=204,
    operation_id="set_active_graph_version",
    summary="Make a version the active one",
    responses=documented(UnknownGraph, PreconditionFailed, TooLarge, UnsupportedMediaType),
)
async def activate(graph_id: UUID, use: Use, caller: Writer, body: ActiveVersion, if_match: IfMatch = None) -> None:
    """So a graph goes back to what it was; the versions after it stay. Runs that there are keep theirs."""
    async with use.database.acquire() as connection, connection.transaction():
        await locked(connection, caller, graph_id, if_match)
        wanted = await existing_graph(connection, caller.user_id, graph_id, body.active_graph_version)
        await graphs.activate(connection, wanted)


@router.get(
    "/{version}",
    operation_id="get_graph_version",
    summary="Show a version of a graph",
    response_model=GraphDetail,
    responses=documented(UnknownGraph) | NOT_MODIFIED,
)
async def show(
    graph_id: UUID,
    version: Annotated[int, Path(ge=1, le=MAX_VERSION)],
    use: Use,
    caller: Reader,
    if_none_match: IfNoneMatch = None,
) -> Response:
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    return answered(await described(use.database, stored), 200, if_none_match)
