"""What is shown of runs, as summaries in lists and with all that happened in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from backend.execution.history import History, NodeRun
from backend.store.identifiers import node_run_id
from backend.store.runs import StoredRun

Status = Literal["INCOMPLETE", "QUEUED", "RUNNING", "COMPLETED", "TERMINATED", "FAILED", "REVIEW"]


class CredentialReference(BaseModel):
    """Which credential to use. What else is given is not kept."""

    id: UUID
    provider: str = Field(examples=["http"])
    type: str = Field(examples=["host_scoped"])
    title: str | None = None


References = dict[str, CredentialReference]


def kept_references(given: References) -> dict[str, dict[str, Any]]:
    return {slot: reference.model_dump(mode="json") for slot, reference in given.items()}


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
    credentials_inputs: References = Field(description="the credentials that it uses, by slot")
    request_id: str | None = Field(
        examples=["d8b63fc5dd0f4ddf916a23eae0621878"],
        description="the X-Request-Id of the request that began it, by which the logs tell of it",
    )


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


def summary_of(run: StoredRun, node_exec_count: int) -> RunSummary:
    return RunSummary(**_fields(run, node_exec_count))


def detail_of(run: StoredRun, history: History, node_exec_count: int) -> RunDetail:
    return RunDetail.model_validate(
        {
            **_fields(run, node_exec_count),
            "attempt": run.attempt,
            "outputs": history.outputs,
            "node_executions": [_node_execution(run.id, node_run) for node_run in history.node_runs.values()],
            "warnings": history.warnings,
            "failure": history.failure,
            "never_ran": history.never_ran,
            "waiting": history.waiting,
        }
    )


# What is shown of a run as it is stored, and of a node run as it is folded.
_OF_RUN = [name for name in StoredRun.__slots__ if name in RunSummary.model_fields]
_OF_NODE_RUN = list(NodeRun.__slots__)


def _fields(run: StoredRun, node_exec_count: int) -> dict[str, Any]:
    duration = (run.ended_at - run.started_at).total_seconds() if run.ended_at and run.started_at else None
    parent = run.parent_run_id and node_run_id(run.parent_run_id, run.parent_node_run or 0)
    return {name: getattr(run, name) for name in _OF_RUN} | {
        "labels": run.labels or {},
        "is_shared": run.share_token is not None,
        "credentials_inputs": run.credentials or {},
        "duration_seconds": duration,
        "node_exec_count": node_exec_count,
        "parent_node_exec_id": parent,
    }


def _node_execution(run_id: UUID, node_run: NodeRun) -> dict[str, Any]:
    fields = {name: getattr(node_run, name) for name in _OF_NODE_RUN}
    return {"id": node_run_id(run_id, node_run.number), **fields}
