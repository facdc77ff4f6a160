"""The settings of a graph, which hold for all its versions."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import Field

from backend.api.body import Body, JsonRoute
from backend.api.conditions import IfMatch, IfNoneMatch, is_known
from backend.api.graphs import NOT_MODIFIED, Reader, Writer, described, existing_graph, locked
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import PreconditionFailed, TooLarge, UnknownGraph, UnsupportedMediaType
from backend.store import graph_settings

SAFE_MODES = {"human_in_the_loop_safe_mode", "sensitive_action_safe_mode"}

router = APIRouter(prefix="/api/v2/graphs/{graph_id:uuid}/settings", tags=["graphs"], route_class=JsonRoute)


class GraphSettings(Body):
    """How the runs of a graph are treated."""

    max_concurrent_runs: Annotated[int, Field(ge=1, le=10_000, examples=[3])] | None = Field(
        default=None, description="runs of it at work at a time, not counting those its agents call; null: any number"
    )
    human_in_the_loop_safe_mode: bool = Field(default=True, description="false: reviews are approved by themselves")
    sensitive_action_safe_mode: bool = Field(default=False, description="kept; no block here is sensitive")


@router.get(
    "",
    operation_id="get_graph_settings",
    summary="Show its settings",
    response_model=GraphSettings,
    responses=documented(UnknownGraph) | NOT_MODIFIED,
)
async def show(
    graph_id: UUID, use: Use, caller: Reader, response: Response, if_none_match: IfNoneMatch = None
) -> GraphSettings | Response:
    """The `ETag` is that of the graph, which has changed when its settings have."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, None)
    tag = (await described(use.database, stored)).tag
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return GraphSettings(**asdict(await graph_settings.get(use.database, graph_id)))


@router.patch(
    "",
    operation_id="change_graph_settings",
    summary="Change its settings",
    response_model=GraphSettings,
    responses=documented(UnknownGraph, PreconditionFailed, TooLarge, UnsupportedMediaType),
)
async def change(
    graph_id: UUID, use: Use, caller: Writer, response: Response, body: GraphSettings, if_match: IfMatch = None
) -> GraphSettings | Response:
    """What is left out stays as it is. A lower limit stops nothing: runs that are at work go on."""
    async with use.database.acquire() as connection, connection.transaction():
        await locked(connection, caller, graph_id, if_match)
        if "max_concurrent_runs" in body.model_fields_set:
            await graph_settings.limit_runs(connection, graph_id, body.max_concurrent_runs)
        if changed := SAFE_MODES & body.model_fields_set:
            now = await graph_settings.get(connection, graph_id)
            await graph_settings.set_safe_modes(connection, graph_id, replace(now, **body.model_dump(include=changed)))
    return await show(graph_id, use, caller, response)
