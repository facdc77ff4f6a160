"""The resource /runs: starting, watching and stopping the execution of graphs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import Body, JsonRoute
from backend.api.graphs import Version, existing_graph
from backend.api.once import REPLAYED, IdempotencyKey, Once
from backend.api.openapi import links, shown
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.run_webhooks import RunWebhook
from backend.api.services import Services, Use
from backend.blocks import registry
from backend.errors import (
    GraphNotRunnable,
    IdempotencyKeyReused,
    InvalidCursor,
    InvalidInputs,
    RunNotEnded,
    TooLarge,
    UnknownGraph,
    UnknownRun,
    UnsupportedMediaType,
)
from backend.execution.credentials import choose
from backend.execution.history import History, NodeRun, fold
from backend.execution.runnable import check, check_values, runnable
from backend.graphs.catalogue import BlockKind
from backend.graphs.credentials import without_secrets
from backend.graphs.graph import Graph
from backend.graphs.schemas import input_schema
from backend.store import control, events, runs
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph
from backend.store.identifiers import new_id, node_run_id
from backend.store.retention import delete_run
from backend.store.runs import StoredRun
from backend.store.statistics import node_run_counts

# Seconds a start may be asked to wait for the end of the run.
MAX_WAIT = 300

router = APIRouter(prefix="/api/v2", tags=["runs"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_RUN)]
Writer = Annotated[Caller, needs(Permission.WRITE_RUN)]
Starter = Annotated[Caller, needs(Permission.RUN_AGENT)]

Status = Literal["INCOMPLETE", "QUEUED", "RUNNING", "COMPLETED", "TERMINATED", "FAILED", "REVIEW"]


Priority = Annotated[int, Field(ge=-100, le=100, description="of queued runs those of a higher one begin first")]

LabelKey = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^:\x00]+$")]
Labels = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]],
    Field(max_length=20, description="by which the run is found again", examples=[{"customer": "42"}]),
]
Label = Annotated[str, Field(max_length=265, pattern=r"^[^:\x00]+:[^\x00]*$")]


def _in_utc(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is out of range") from None
    except ValueError:
        raise ValueError("it has to be a time as in ISO 8601, such as 2026-01-31T12:00:00Z") from None


Time = Annotated[datetime, BeforeValidator(_in_utc)]


class CredentialReference(BaseModel):
    """Which credential to use. What else is given is not kept."""

    id: UUID
    provider: str = Field(examples=["http"])
    type: str = Field(examples=["host_scoped"])
    title: str | None = None


class StartRun(Body):
    """What a run begins with: a value for each input of the graph that has none of its own."""

    inputs: dict[str, Any] = Field(default={}, examples=[{"Input": 5}])
    nodes_input_masks: dict[str, dict[str, Any]] | None = Field(
        default=None, description="values for pins of nodes, by the id of the node, in place of whatever comes to them"
    )
    credentials_inputs: dict[str, CredentialReference] | None = Field(
        default=None, description="one of your credentials for each slot of the graph's `credentials_input_schema`"
    )
    priority: Priority = 0
    concurrency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00]+$",
        description="of all runs with this key no more than `concurrency_limit` are at work at a time; others wait",
    )
    concurrency_limit: int = Field(default=1, ge=1, le=10_000, description="only with a `concurrency_key`")
    labels: Labels = Field(default={})
    webhook: RunWebhook | None = Field(default=None, description="is told of this run; needs WRITE_WEBHOOK, too")
    dry_run: bool = Field(default=False, description="only check, and say what would run: no block does")
    source: Any = Field(default=None, description="taken from clients of AutoGPT, and passed over")
    preset_id: Any = Field(default=None, description="taken from clients of AutoGPT, and passed over")

    @property
    def masks(self) -> dict[str, dict[str, Any]]:
        return {node_id: without_secrets(mask) for node_id, mask in (self.nodes_input_masks or {}).items()}

    def options(self, user_id: UUID) -> runs.Options:
        """What is kept of them with the run."""
        return {
            "user_id": user_id,
            "priority": self.priority,
            "input_masks": self.masks or None,
            "concurrency_key": self.concurrency_key,
            "concurrency_limit": self.concurrency_limit if self.concurrency_key else None,
            "labels": self.labels or None,
        }


class RunSummary(BaseModel):
    """A run as it is listed."""

    id: UUID
    graph_id: UUID
    graph_version: int
    status: Status
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    inputs: dict[str, Any]
    error: str | None = Field(description="why the run FAILED")
    duration_seconds: float | None = Field(description="from start to end; null until it has ended")
    node_exec_count: int = Field(description="node executions begun so far, with those of the runs below it")
    parent_run_id: UUID | None = Field(description="the run of which a node began this one")
    parent_node_exec_id: UUID | None = Field(description="the node execution that began it")
    rerun_of: UUID | None = Field(description="the run that this one runs again, wholly or in part")
    priority: int
    paused: bool = Field(description="it is to rest; it does once the nodes at work have finished")
    concurrency_key: str | None
    labels: dict[str, str]
    is_shared: bool
    share_token: str | None = Field(description="whoever has it sees the outputs")
    cost_cents: int = Field(default=0, description="always 0: nothing is charged for")
    preset_id: None = Field(default=None, description="always null, as the rest: for clients of AutoGPT")
    correctness_score: None = None
    organization_id: None = None
    team_id: None = None
    schedule_id: UUID | None = Field(description="the schedule that began it")
    credentials_inputs: dict[str, CredentialReference] = Field(description="the credentials that it uses, by slot")


class NodeExecution(BaseModel):
    """One execution of one node. A value may be put out on a pin more than once, so `outputs` has lists."""

    id: UUID
    number: int = Field(description="counts the node executions of the run, from 1")
    node_id: str
    block_id: str
    status: Status
    inputs: dict[str, Any]
    outputs: dict[str, list[Any]]
    error: str | None
    started_at: datetime
    ended_at: datetime | None
    retries: int = Field(description="how often it was tried again")
    kept: bool = Field(description="it was not executed by this run, but by the one that this is a rerun of")


class Warning(BaseModel):
    """Something a person should know of a node execution that did not fail."""

    node_run: int = Field(description="the `number` of the node execution")
    node_id: str
    message: str = Field(examples=["a: ‘abc’ is not a number, 0 is taken"])


class Failure(BaseModel):
    """The node execution that a run failed for: the first that failed while its `error` leads nowhere."""

    node_id: str
    node_run: int = Field(description="the `number` of the node execution")
    node: str = Field(description="what people call the node", examples=["Fetch the page (fetch)"])
    error: str
    inputs: dict[str, str] = Field(description="its input by pin, as text: shortened, and without secrets")


class NeverRan(BaseModel):
    """A node that never ran, though the run has ended."""

    node_id: str
    reason: str = Field(examples=["waits for the pin `b`: its only source, Fetch the page (fetch), failed"])


class Waiting(BaseModel):
    """Values that came to a node, but not enough of them for it to run with."""

    node_id: str
    node_run: int
    pins: list[str] = Field(description="the pins for which no value came")


class RunDetail(RunSummary):
    """A run with all that has happened in it so far."""

    attempt: int = Field(description="how many executors have worked on it; more than 1 after a crash")
    outputs: dict[str, list[Any]] = Field(
        description="the values of each output of the graph", examples=[{"Output": [5]}]
    )
    node_executions: list[NodeExecution]
    warnings: list[Warning] = Field(description="values that lost something on their way into a node")
    failure: Failure | None = Field(description="what the run FAILED for, if that was a node")
    never_ran: list[NeverRan] = Field(description="the nodes that never ran, and why, once the run has ended by itself")
    waiting: list[Waiting] = Field(description="what was left waiting for more when the run ended by itself")


class Filters:
    """Which runs are listed: those that meet all that is given."""

    def __init__(
        self,
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
    ) -> None:
        self.wanted: runs.Wanted = {
            "statuses": [*(status or ()), *(statuses or ())] or None,
            "parent_run_id": parent_run_id,
            "rerun_of": rerun_of,
            "schedule_id": schedule_id,
            "labels": list(dict.fromkeys(label or ())),
            "started_after": started_after,
            "started_before": started_before,
        }


class NodeToRun(BaseModel):
    """A node that is not disabled, and no note."""

    node_id: str
    block_id: str
    block_name: str


class DryRun(BaseModel):
    """What a start would run: it has been checked, and nothing is stored."""

    dry_run: Literal[True] = True
    graph_id: UUID
    graph_version: int
    inputs: dict[str, Any] = Field(description="with the values that inputs have of their own")
    nodes: list[NodeToRun]


@router.post(
    "/graphs/{graph_id}/runs",
    status_code=202,
    response_model=RunDetail,
    operation_id="start_run",
    summary="Start a run of a graph",
    responses=documented(
        UnknownGraph, TooLarge, UnsupportedMediaType, GraphNotRunnable, InvalidInputs, IdempotencyKeyReused
    )
    | {
        200: {"model": RunDetail | DryRun, "description": "the run has ended within the time to wait; or a dry run"},
        202: {"links": links("run_id", "get_run", "stop_run"), "description": "the run is queued, or under way"},
    },
)
async def start(
    graph_id: UUID,
    use: Use,
    caller: Starter,
    response: Response,
    body: StartRun | None = None,
    version: Version = None,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the end of the run")] = 0,
    idempotency_key: IdempotencyKey = None,
) -> RunDetail | Response:
    """The run goes on whatever becomes of this request. With `wait`, the answer comes when it has ended (200), or shows
    it as it is when the time is over (202). With `dry_run` all is checked, and nothing is stored (200)."""
    body = body or StartRun()
    once = Once(use.database, caller, idempotency_key, "start", graph_id, version, body)
    if earlier := await once.earlier():
        return await answer_begun(use, caller, response, earlier, wait)
    stored = await existing_graph(use.database, caller, graph_id, version)
    graph = await runnable(use.database, stored)
    check_values(graph, body.inputs, body.masks)
    credentials = await chosen_credentials(use.database, caller, graph, body)
    if body.webhook:
        body.webhook.check(use, caller)
    if body.dry_run:
        return Response(_what_would_run(stored, body).model_dump_json(), media_type="application/json")
    id, options = new_id(), body.options(caller.user_id)
    options["credentials"] = credentials

    async def insert(database: Queryable) -> StoredRun:
        if body.webhook:
            await body.webhook.insert(database, use, caller.user_id, id)
        return await runs.insert(database, id, stored.id, stored.version, body.inputs, **options)

    begun = await (once.begin(id, insert) if idempotency_key or body.webhook else insert(use.database))
    return await answer_begun(use, caller, response, begun, wait)


async def answer_begun(
    use: Services, caller: Caller, response: Response, begun: StoredRun | UUID, wait: float = 0
) -> RunDetail:
    """The answer to a request that has begun a run, or, given only an id, would have if it were the first."""
    run_id = begun if isinstance(begun, UUID) else begun.id
    response.headers["Location"] = f"{router.prefix}/runs/{run_id}"
    if isinstance(begun, UUID):
        response.headers[REPLAYED] = "true"
    elif not wait and begun.rerun_of is None:
        return _detail(begun, History(), 0)
    if wait:
        await existing_run(use.database, caller, run_id)
        await use.feed.wait_for_end(run_id, wait)
    detail = await read_detail(use.database, caller, run_id)
    response.status_code = 200 if wait and detail.ended_at else 202
    return detail


def _what_would_run(stored: StoredGraph, body: StartRun) -> DryRun:
    graph, catalogue = check(stored).graph, registry.catalogue()
    known: dict[str, dict[str, Any]] = input_schema(graph, catalogue)["properties"]
    specs = [(node, catalogue.get(node.block_id)) for node in graph.nodes if not node.settings.disabled]
    return DryRun(
        graph_id=stored.id,
        graph_version=stored.version,
        inputs={name: each["default"] for name, each in known.items() if "default" in each} | body.inputs,
        nodes=[
            NodeToRun(node_id=node.id, block_id=node.block_id, block_name=spec.name)
            for node, spec in specs
            if spec and spec.kind is not BlockKind.NOTE
        ],
    )


async def chosen_credentials(
    database: Queryable, caller: Caller, graph: Graph, body: StartRun
) -> dict[str, dict[str, Any]] | None:
    """What is kept of the credentials with the run, or InvalidInputs."""
    given = {slot: reference.model_dump(mode="json") for slot, reference in (body.credentials_inputs or {}).items()}
    kept, problems = await choose(database, caller.user_id, graph, given, body.masks)
    if problems:
        errors = [
            {"pointer": f"/credentials_inputs/{each.pin}", "code": each.code, "message": each.message}
            for each in problems
        ]
        shown = [each.model_dump() for each in problems]
        raise InvalidInputs(" ".join(each.message for each in problems), errors=errors, problems=shown)
    return kept or None


@router.get(
    "/runs", operation_id="list_runs", summary="List the runs, newest first", responses=documented(InvalidCursor)
)
async def list_(
    use: Use,
    caller: Reader,
    after: After,
    filters: Annotated[Filters, Depends()],
    limit: Limit = 20,
    graph_id: Annotated[UUID | None, Query(description="only runs of this graph")] = None,
) -> Page[RunSummary]:
    wanted: runs.Wanted = {**filters.wanted, "graph_id": graph_id}
    rows = await runs.page(use.database, caller.user_id, limit=limit + 1, before=after, **wanted)
    shown, next_cursor = cut(rows, limit)
    counts = await node_run_counts(use.database, [run.id for run in shown])
    return Page(
        items=[RunSummary(**_summary(run, counts.get(run.id, 0))) for run in shown],
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
    filters: Annotated[Filters, Depends()],
    limit: Limit = 20,
) -> Page[RunSummary]:
    await existing_graph(use.database, caller, graph_id, None)
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
        raise RunNotEnded(f"The run {run_id}, or one below it, has not ended: stop it, or wait for its end.")


async def _answer(database: Queryable, run_id: UUID, run: StoredRun | None) -> RunSummary:
    if run is None:
        raise _unknown(run_id)
    counts = await node_run_counts(database, [run.id])
    return RunSummary(**_summary(run, counts.get(run.id, 0)))


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
    run = await existing_run(database, caller, run_id)
    history = fold(await events.read_all(database, run_id))
    counts = await node_run_counts(database, [run_id])
    return _detail(run, history, counts.get(run_id, 0))


def _detail(run: StoredRun, history: History, node_exec_count: int) -> RunDetail:
    executions = [_node_execution(run.id, node_run) for node_run in history.node_runs.values()]
    summary = _summary(run, node_exec_count)
    return RunDetail(
        **summary,
        attempt=run.attempt,
        outputs=history.outputs,
        node_executions=executions,
        warnings=[Warning(**warning) for warning in history.warnings],
        failure=Failure(**history.failure) if history.failure else None,
        never_ran=[NeverRan(**each) for each in history.never_ran],
        waiting=[Waiting(**each) for each in history.waiting],
    )


def _summary(run: StoredRun, node_exec_count: int) -> Mapping[str, Any]:
    duration = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else None
    fields = {name: getattr(run, name) for name in StoredRun.__slots__ if name in RunSummary.model_fields}
    parent = run.parent_run_id and node_run_id(run.parent_run_id, run.parent_node_run or 0)
    fields |= {"labels": run.labels or {}, "is_shared": run.share_token is not None}
    fields["credentials_inputs"] = run.credentials or {}
    return {**fields, "duration_seconds": duration, "node_exec_count": node_exec_count, "parent_node_exec_id": parent}


def _node_execution(run_id: UUID, node_run: NodeRun) -> NodeExecution:
    fields = {name: getattr(node_run, name) for name in NodeRun.__slots__}
    return NodeExecution.model_construct(id=node_run_id(run_id, node_run.number), **fields)
