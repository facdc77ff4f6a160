"""The settings of a graph, which hold for all its versions."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from backend.api.body import JsonRoute
from backend.api.graphs import Reader, Writer, existing_graph
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import TooLarge, UnknownGraph, UnsupportedMediaType
from backend.store import graph_settings

router = APIRouter(prefix="/api/v2/graphs/{graph_id}/settings", tags=["graphs"], route_class=JsonRoute)


class GraphSettings(BaseModel):
    """How the runs of a graph are treated."""

    max_concurrent_runs: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="runs of it at work at a time, not counting those its agents call; null: any number"
    )


@router.get("", operation_id="get_graph_settings", summary="Show its settings", responses=documented(UnknownGraph))
async def show(graph_id: UUID, use: Use, caller: Reader) -> GraphSettings:
    await existing_graph(use.database, caller, graph_id, None)
    return GraphSettings(max_concurrent_runs=await graph_settings.max_concurrent_runs(use.database, graph_id))


@router.patch(
    "",
    operation_id="change_graph_settings",
    summary="Change its settings",
    responses=documented(UnknownGraph, TooLarge, UnsupportedMediaType),
)
async def change(graph_id: UUID, use: Use, caller: Writer, body: GraphSettings) -> GraphSettings:
    """What is left out stays as it is. A lower limit stops nothing: runs that are at work go on."""
    await existing_graph(use.database, caller, graph_id, None)
    if "max_concurrent_runs" in body.model_fields_set:
        await graph_settings.limit_runs(use.database, graph_id, body.max_concurrent_runs)
    return await show(graph_id, use, caller)
