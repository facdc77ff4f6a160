"""What a run has done so far: the fold of its events that clients are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backend.store.events import Event


@dataclass(slots=True)
class NodeRun:
    """One execution of one node. `number` counts the node runs of a run from 1; `outputs` is {pin: [values]}.

    `retries` says how often it was tried again; one that is `kept` comes from the run that this is a rerun of.
    """

    number: int
    node_id: str
    block_id: str
    status: str
    inputs: dict[str, Any]
    started_at: datetime
    ended_at: datetime | None = None
    outputs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    error: str | None = None
    retries: int = 0
    kept: bool = False


@dataclass(slots=True)
class History:
    """`outputs` is {name: [values]} of the output nodes, in the order they came.

    At the end of a run: `failure` is what it failed for, `never_ran` and `waiting` what did not come to run, and why.
    """

    outputs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    node_runs: dict[int, NodeRun] = field(default_factory=dict[int, NodeRun])
    warnings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failure: dict[str, Any] | None = None
    never_ran: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    waiting: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def apply(self, event: Event) -> None:
        """Take in the next event of the run; a type that does not matter here is passed over."""
        data = event.data
        match event.type:
            case "node.started" | "node.kept":
                self._start(event)
            case "node.output":
                self.node_runs[data["node_run"]].outputs.setdefault(data["pin"], []).append(data["value"])
            case "node.completed" | "node.failed" | "node.terminated":
                node_run = self.node_runs[data["node_run"]]
                node_run.status = event.type.removeprefix("node.").upper()
                node_run.ended_at = event.created_at
                node_run.error = data.get("error")
            case "node.waiting" if data["for"] == "review":
                self.node_runs[data["node_run"]].status = "REVIEW"
            case "node.waiting" if data["for"] == "retry":
                self.node_runs[data["node_run"]].retries += 1
            case "run.terminated":
                self._terminate(event)
                self._end(data)
            case "run.output":
                self.outputs.setdefault(data["name"], []).append(data["value"])
            case "run.warning":
                self.warnings.append(data)
            case "run.completed" | "run.failed":
                self._end(data)
            case _:
                pass

    def _end(self, data: dict[str, Any]) -> None:
        self.failure = data.get("failure")
        self.never_ran, self.waiting = data.get("never_ran", []), data.get("waiting", [])

    def _terminate(self, event: Event) -> None:
        for node_run in self.node_runs.values():
            if node_run.ended_at is None:
                node_run.status, node_run.ended_at = "TERMINATED", event.created_at

    def _start(self, event: Event) -> None:
        data = event.data
        # A node run that was cut off by a crash starts once more; what it had already put out stands.
        earlier = self.node_runs.get(data["node_run"])
        self.node_runs[data["node_run"]] = NodeRun(
            number=data["node_run"],
            node_id=data["node_id"],
            block_id=data["block_id"],
            status="QUEUED" if event.type == "node.kept" else "RUNNING",
            inputs=data["inputs"],
            started_at=event.created_at,
            outputs=earlier.outputs if earlier else {},
            retries=earlier.retries if earlier else 0,
            kept=event.type == "node.kept",
        )


def fold(events: Iterable[Event]) -> History:
    history = History()
    for event in events:
        history.apply(event)
    return history
