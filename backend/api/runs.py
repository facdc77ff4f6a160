"""The resource /runs: looking at runs, steering and deleting them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, BeforeValidator, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.graphs import existing_graph
from backend.api.openapi import shown
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.run_model import RunDetail, RunSummary, Status, detail_of, summary_of
from backend.api.services import Use
from backend.api.times import in_utc
from backend.errors import InvalidCursor, RunNotEnded, UnknownGraph, UnknownRun
from backend.execution.history import fold
from backend.store import control, events, runs
from backend.store.connection import Queryable
from backend.store.retention import delete_run
from backend.store.runs import StoredRun
from backend.store.statistics import get_counted, node_run_counts

router = APIRouter(prefix="/api/v2", tags=["runs"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_RUN)]
Writer = Annotated[Caller, needs(Permission.WRITE_RUN)]

Label = Annotated[str, Field(max_length=265, pattern=r"^[^:\x00]+:[^\x00]*$")]


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it has to be a time as in ISO 8601, such as 2026-01-31T12:00:00Z") from None


Time = Annotated[datetime, BeforeValidator(_time), AfterValidator(in_utc)]


async def _wanted(
    status: Annotated[list[Status] | None, Query(description="only runs in one of these; may be repeated")] = None,
    statuses: Annotated[list[Status] | None, Query(description="another name of `status`")] = None,
    parent_run_id: Annotated[UUID | None, Query(description="only runs that nodes of this run began")] = None,
    rerun_of: Annotated[UUID | None, Query(description="only runs that run this one again")] = None,
    schedule_id: Annotated[UUID | None, Query(description="only runs that this schedule began")] = None,
    label: Annotated[
        list[Label] | None,
        Query(max_length=20, description="only runs with this label, `key:value`; may be repeated: with all"),
    ] = None,
    started_after: Annotated[Time | None, Query(description="only runs that were started then or later")] = None,
    started_before: Annotated[Time | None, Query(description="only runs that were started before")] = None,
) -> runs.Wanted:
    return {
        "statuses": [*(status or ()), *(statuses or ())] or None,
        "parent_run_id": parent_run_id,
        "rerun_of": rerun_of,
        "schedule_id": schedule_id,
        "labels": list(dict.fromkeys(label or ())),
        "started_after": started_after,
        "started_before": started_before,
    }


# Which runs are listed: those that meet all that is given.
Filters = Annotated[runs.Wanted, Depends(_wanted)]


@router.get(
    "/runs", operation_id="list_runs", summary="List the runs, newest first", responses=documented(InvalidCursor)
)
async def list_(
    use: Use,
    caller: Reader,
    after: After,
    filters: Filters,
    limit: Limit = 20,
    graph_id: Annotated[UUID | None, Query(description="only runs of this graph")] = None,
) -> Page[RunSummary]:
    wanted: runs.Wanted = {**filters, "graph_id": graph_id}
    rows = await runs.page(use.database, caller.user_id, limit=limit + 1, before=after, **wanted)
    shown, next_cursor = cut(rows, limit)
    counts = await node_run_counts(use.database, [run.id for run in shown])
    return Page(
        items=[summary_of(run, counts.get(run.id, 0)) for run in shown],
        next_cursor=next_cursor,
        total_count=await runs.count(use.database, caller.user_id, **wanted),
    )


@router.get(
    "/graphs/{graph_id}/runs",
    operation_id="list_graph_runs",
    summary="List the runs of a graph, newest first",
    responses=documented(UnknownGraph, InvalidCursor),
)
async def list_of_graph(
    graph_id: UUID,
    use: Use,
    caller: Reader,
    after: After,
    filters: Filters,
    limit: Limit = 20,
) -> Page[RunSummary]:
    await existing_graph(use.database, caller.user_id, graph_id, None)
    return await list_(use, caller, after, filters, limit, graph_id)


@router.get("/runs/{run_id:uuid}", operation_id="get_run", summary="Show a run", responses=documented(UnknownRun))
async def show(run_id: UUID, use: Use, caller: Reader) -> RunDetail:
    return await read_detail(use.database, caller, run_id)


@router.get(
    "/runs/{run_id:uuid}/outputs",
    operation_id="get_run_outputs",
    summary="Show what a run has put out",
    responses=documented(UnknownRun) | {200: shown("the values, by output", {"Output": [5]})},
)
async def outputs(
    run_id: UUID,
    use: Use,
    caller: Reader,
    name: Annotated[list[str] | None, Query(description="only the output of this name; may be repeated")] = None,
) -> dict[str, list[Any]]:
    """The values of each output of the graph so far, in the order they came."""
    await existing_run(use.database, caller, run_id)
    found = (await events.outputs_of(use.database, [run_id])).get(run_id, {})
    return found if name is None else {each: found[each] for each in name if each in found}


@router.post(
    "/runs/{run_id:uuid}/stop",
    status_code=202,
    operation_id="stop_run",
    summary="Stop a run",
    responses=documented(UnknownRun),
)
async def stop(run_id: UUID, use: Use, caller: Writer) -> RunSummary:
    """A run that has ended already is answered as it is; so stopping twice does no harm."""
    await existing_run(use.database, caller, run_id)
    return await _answer(use.database, run_id, await control.request_stop(use.database, run_id))


@router.post(
    "/runs/{run_id:uuid}/pause",
    status_code=202,
    operation_id="pause_run",
    summary="Pause a run",
    responses=documented(UnknownRun),
)
async def pause(run_id: UUID, use: Use, caller: Writer) -> RunSummary:
    """The run and those below it begin no more nodes. Those at work finish; then the run rests in the database until it
    is resumed or stopped. A run that has ended is answered as it is."""
    await existing_run(use.database, caller, run_id)
    return await _answer(use.database, run_id, await control.pause(use.database, run_id))


@router.post(
    "/runs/{run_id:uuid}/resume",
    status_code=202,
    operation_id="resume_run",
    summary="Resume a run that was paused",
    responses=documented(UnknownRun),
)
async def resume(run_id: UUID, use: Use, caller: Writer) -> RunSummary:
    """The run and those below it go on where they were. A run that is not paused is answered as it is."""
    await existing_run(use.database, caller, run_id)
    return await _answer(use.database, run_id, await control.resume(use.database, run_id))


@router.delete(
    "/runs/{run_id:uuid}",
    status_code=204,
    operation_id="delete_run",
    summary="Delete a run that has ended",
    responses=documented(UnknownRun, RunNotEnded),
)
async def delete(run_id: UUID, use: Use, caller: Writer) -> None:
    """It goes with all that it did, and with the runs below it."""
    run = await existing_run(use.database, caller, run_id)
    if not run.ended_at or not await delete_run(use.database, run_id):
        raise RunNotEnded(f"The run {run_id}, the one that began it, or one below it has not ended: stop it, or wait.")


async def _answer(database: Queryable, run_id: UUID, run: StoredRun | None) -> RunSummary:
    if run is None:
        raise _unknown(run_id)
    counts = await node_run_counts(database, [run.id])
    return summary_of(run, counts.get(run.id, 0))


async def existing_run(database: Queryable, caller: Caller, run_id: UUID) -> StoredRun:
    """The run, or UnknownRun: so too if it is another's."""
    run = await runs.get(database, run_id)
    if run is None or run.user_id != caller.user_id:
        raise _unknown(run_id)
    return run


def _unknown(run_id: UUID) -> UnknownRun:
    return UnknownRun(f"There is no run {run_id}.")


async def read_detail(database: Queryable, caller: Caller, run_id: UUID) -> RunDetail:
    """The run with all that has happened in it, or UnknownRun."""
    # In this order: a run seen as ended has all its events.
    run, node_exec_count = await get_counted(database, run_id) or (None, 0)
    if run is None or run.user_id != caller.user_id:
        raise _unknown(run_id)
    return detail_of(run, fold(await events.read(database, run_id)), node_exec_count)
