"""Running again what has run: from some nodes on, with other inputs, or only what failed. Each is a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Response
from pydantic import Field

from backend.api.access import Caller
from backend.api.body import Body, JsonRoute
from backend.api.graphs import existing_graph
from backend.api.middleware import request_id
from backend.api.once import IdempotencyKey, Once
from backend.api.openapi import links
from backend.api.problem import documented
from backend.api.run_model import RunDetail
from backend.api.runs import existing_run
from backend.api.services import Services, Use
from backend.api.starts import Starter, answer_begun
from backend.blocks import registry
from backend.errors import (
    GraphNotRunnable,
    IdempotencyKeyReused,
    InvalidInputs,
    NothingFailed,
    RunNotEnded,
    TooLarge,
    UnknownNode,
    UnknownRun,
    UnsupportedMediaType,
)
from backend.execution import rerun
from backend.execution.runnable import CheckedGraph, check_values, runnable
from backend.graphs.catalogue import BlockKind
from backend.graphs.faults import printable
from backend.graphs.graph import Graph
from backend.graphs.schemas import named_nodes
from backend.graphs.topology import topology
from backend.store import events, runs
from backend.store.connection import Queryable
from backend.store.events import Event
from backend.store.identifiers import new_id
from backend.store.runs import StoredRun

router = APIRouter(prefix="/api/v2/runs", tags=["runs"], route_class=JsonRoute)


class Rerun(Body):
    """From where to run again."""

    from_nodes: list[str] = Field(
        default=[],
        max_length=10_000,
        examples=[["fetch"]],
        description="ids of nodes: they, and all that follows from them, run again. None: the whole agent does",
    )


class Fork(Body):
    """What is different this time."""

    inputs: dict[str, Any] = Field(
        default={}, description="values of inputs in place of those of the run", examples=[{"Input": 6}]
    )


RESPONSES = documented(UnknownRun, RunNotEnded, GraphNotRunnable, IdempotencyKeyReused) | {
    202: {"links": links("run_id", "get_run", "stop_run"), "description": "the new run is queued"}
}


@router.post(
    "/{run_id:uuid}/rerun",
    status_code=202,
    operation_id="rerun_run",
    summary="Run again, wholly or from some nodes on",
    responses=RESPONSES | documented(TooLarge, UnsupportedMediaType, UnknownNode),
)
async def rerun_(
    run_id: UUID,
    use: Use,
    caller: Starter,
    response: Response,
    body: Rerun | None = None,
    idempotency_key: IdempotencyKey = None,
) -> RunDetail:
    """What does not follow from the nodes keeps its outputs and is not executed again: its executions are `kept`."""
    once = Once(use.database, caller, idempotency_key, "rerun", run_id, body or Rerun())
    if earlier := await once.earlier():
        return await answer_begun(use, caller, response, earlier)
    run, checked = await _ended(use, caller, run_id)
    graph = checked.graph
    wanted = body.from_nodes if body else []
    known = {node.id for node in graph.nodes}
    if unknown := [each for each in wanted if each not in known]:
        where = f"GET /api/v2/graphs/{run.graph_id}?version={run.graph_version} lists them"
        raise UnknownNode(f"The agent has no node {printable(unknown[0][:80])}: {where}.")
    history = await _kept(use, run, graph, wanted) if wanted else []
    begun = await _begin(once, caller, run, run.inputs, history)
    return await answer_begun(use, caller, response, begun)


@router.post(
    "/{run_id:uuid}/fork",
    status_code=202,
    operation_id="fork_run",
    summary="Run again with other inputs",
    responses=RESPONSES | documented(TooLarge, UnsupportedMediaType, InvalidInputs),
)
async def fork(
    run_id: UUID,
    use: Use,
    caller: Starter,
    response: Response,
    body: Fork,
    idempotency_key: IdempotencyKey = None,
) -> RunDetail:
    """What does not follow from an input that is different keeps its outputs and is not executed again."""
    once = Once(use.database, caller, idempotency_key, "fork", run_id, body)
    if earlier := await once.earlier():
        return await answer_begun(use, caller, response, earlier)
    run, checked = await _ended(use, caller, run_id)
    inputs = run.inputs | body.inputs
    check_values(checked, inputs, run.input_masks or {})
    named = named_nodes(checked.graph, registry.catalogue(), BlockKind.INPUT)
    changed = [node.id for name, node, _ in named if _differs(name, run.inputs, inputs)]
    begun = await _begin(once, caller, run, inputs, await _kept(use, run, checked.graph, changed))
    return await answer_begun(use, caller, response, begun)


def _differs(name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    return (name in before) != (name in now) or _as_json(before.get(name)) != _as_json(now.get(name))


def _as_json(value: Any) -> bytes:
    """What tells apart values that are equal in Python alone: true and 1, 1 and 1.0."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


@router.post(
    "/{run_id:uuid}/retry",
    status_code=202,
    operation_id="retry_run",
    summary="Try again what failed",
    responses=RESPONSES | documented(NothingFailed),
)
async def retry(
    run_id: UUID, use: Use, caller: Starter, response: Response, idempotency_key: IdempotencyKey = None
) -> RunDetail:
    """Only the node executions that failed, or were cut off when the run was stopped, are tried again, and what never
    ran may run; what has completed is not executed again, and what a failed one had put out before stands."""
    once = Once(use.database, caller, idempotency_key, "retry", run_id)
    if earlier := await once.earlier():
        return await answer_begun(use, caller, response, earlier)
    run, checked = await _ended(use, caller, run_id)
    graph = checked.graph
    if run.status == "COMPLETED":
        raise NothingFailed(f"The run {run_id} has completed: use /rerun to run all of it again.")
    found, masked = topology(graph, registry.catalogue()), run.masks
    done = await events.read(use.database, run_id)
    history = rerun.kept(found, masked, done, retried=rerun.failed_node_runs(found, done))
    begun = await _begin(once, caller, run, run.inputs, history)
    return await answer_begun(use, caller, response, begun)


async def _ended(use: Services, caller: Caller, run_id: UUID) -> tuple[StoredRun, CheckedGraph]:
    """An ended run of a graph that can run, and the graph."""
    run = await existing_run(use.database, caller, run_id)
    if not run.ended_at:
        raise RunNotEnded(f"The run {run_id} has not ended ({run.status}): wait for its end, or stop it.")
    stored = await existing_graph(use.database, caller.user_id, run.graph_id, run.graph_version)
    return run, await runnable(use.database, stored)


async def _kept(use: Services, run: StoredRun, graph: Graph, again: Sequence[str]) -> list[Event]:
    found = topology(graph, registry.catalogue())
    done = await events.read(use.database, run.id)
    return rerun.kept(found, run.masks, done, again=rerun.downstream(found, again))


async def _begin(
    once: Once, caller: Caller, of: StoredRun, inputs: dict[str, Any], history: Sequence[Event]
) -> StoredRun | UUID:
    id = new_id()

    async def insert(connection: Queryable) -> StoredRun:
        run = await runs.insert(
            connection,
            id,
            of.graph_id,
            of.graph_version,
            inputs,
            user_id=caller.user_id,
            priority=of.priority,
            rerun_of=of.id,
            input_masks=of.input_masks,
            credentials=of.credentials,
            concurrency_key=of.concurrency_key,
            concurrency_limit=of.concurrency_limit,
            labels=of.labels,
            request_id=request_id(),
        )
        await events.add(connection, id, history)
        # Had it been deleted while it was read, what is kept would lack something.
        await existing_run(connection, caller, of.id)
        return run

    return await once.begin(id, insert)
