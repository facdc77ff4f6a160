"""What has become of the runs in the end, by the database, and everything about it that should not be so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

import asyncpg

from backend.execution.history import History, fold
from backend.store.events import ENDS, Event
from tests.chaos.agents import Kind
from tests.chaos.harm import Harm
from tests.chaos.promises import broken, given_up_with_reason
from tests.journeys.stub import WEB_REQUEST


@dataclass
class Outcome:
    runs: dict[UUID, asyncpg.Record]
    events: dict[UUID, list[Event]]
    histories: dict[UUID, History]
    # How many values agents kept, each under a key of its own.
    kept: int

    def faults(
        self, agents: Mapping[UUID, Kind], accepted: Collection[UUID], sent: Mapping[str, list[Any]]
    ) -> Iterator[str]:
        """Everything that is wrong; `sent` is what the web service received, by Idempotency-Key."""
        yield from (f"{id} was accepted and is lost" for id in accepted if id not in self.runs)
        keeping = sum(self._kind(agents, run) == "keeping" for run in self.runs.values())
        if keeping != self.kept:
            yield f"{keeping} runs kept {self.kept} values"
        yield from (f"a request said it was {key}" for key in sent.keys() - self._keys())
        for id, run in self.runs.items():
            wrong = [*broken(self.events[id]), *self._unlike(run, agents), *self._sent_wrongly(run, sent)]
            yield from (f"{self._kind(agents, run)} {id}: {fault}" for fault in wrong)

    def rescues(self, harm: Harm) -> Iterator[float]:
        """Seconds from the death of an executor until each run it had went on, while the database lived."""
        for death in harm.deaths:
            for id, attempt in death.runs.items():
                after = [event for event in self.events[id] if _went_on(event, attempt)]
                seconds = after[0].created_at.timestamp() - death.at if after else 0.0
                if not any(death.at - 5 < blow < death.at + seconds for blow in harm.blows):
                    yield seconds

    def figures(self) -> dict[str, Any]:
        types = Counter(event.type for events in self.events.values() for event in events)
        return {
            "runs": dict(Counter(run["status"] for run in self.runs.values())),
            "events": types.total(),
            "rescued": types["run.rescued"],
            "resumed": types["run.resumed"],
            "most_attempts": max(run["attempt"] for run in self.runs.values()),
            "given_up": sum(map(given_up_with_reason, self.events.values())),
        }

    @cached_property
    def given_up(self) -> set[UUID]:
        """The runs that were not taken up again with good reason, and those that had begun them."""
        found = [self.runs[id] for id, events in self.events.items() if given_up_with_reason(events)]
        return {id for run in found for id in (run["id"], run["parent_run_id"])}

    def _kind(self, agents: Mapping[UUID, Kind], run: asyncpg.Record) -> str:
        kind = agents.get(run["graph_id"])
        return kind.name if kind else "below"

    def _unlike(self, run: asyncpg.Record, agents: Mapping[UUID, Kind]) -> Iterator[str]:
        """How a run differs from what its agent makes of its inputs."""
        if run["id"] in self.given_up:
            return
        # A run below another is one of the same chain.
        kind = agents.get(run["graph_id"]) or next(kind for kind in agents.values() if kind.name == "chain")
        outputs, expected = self.histories[run["id"]].outputs, kind.outputs(run["inputs"])
        if run["status"] != kind.status or _in_any_order(outputs) != _in_any_order(expected):
            yield f"{run['status']} {run['error']} with {outputs} instead of {expected}"
        calls = sum(below["parent_run_id"] == run["id"] for below in self.runs.values()) if kind.calls else 0
        if calls != kind.calls:
            yield f"{calls} runs below it"

    def _requests(self, id: UUID) -> Iterator[tuple[str, Any]]:
        for node_run in self.histories[id].node_runs.values():
            if node_run.block_id == WEB_REQUEST:
                yield f"{id}:{node_run.number}", node_run

    def _keys(self) -> set[str]:
        return {key for id in self.runs for key, _ in self._requests(id)}

    def _sent_wrongly(self, run: asyncpg.Record, sent: Mapping[str, list[Any]]) -> Iterator[str]:
        """Requests that differ from one attempt to the next, are more than one of an attempt, or were not made."""
        for key, node_run in self._requests(run["id"]):
            bodies = sent.get(key, [])
            if len(bodies) > run["attempt"] or any(body != node_run.inputs["body"] for body in bodies):
                yield f"{key} sent {bodies} in {run['attempt']} attempts"
            if node_run.status == "COMPLETED" and not bodies:
                yield f"{key} was never sent"


async def outcome(connection: asyncpg.Connection) -> Outcome:
    events: defaultdict[UUID, list[Event]] = defaultdict(list)
    for row in await connection.fetch("SELECT * FROM run_events ORDER BY run_id, number"):
        events[row["run_id"]].append(Event(row["number"], row["type"], row["data"], row["created_at"]))
    runs = {row["id"]: row for row in await connection.fetch("SELECT * FROM runs")}
    kept = await connection.fetchval("SELECT count(*) FROM kept_values")
    return Outcome(runs, events, {id: fold(events[id]) for id in runs}, kept)


def _in_any_order(outputs: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Nodes that run at the same time put out in any order."""
    return {pin: sorted(map(repr, values)) for pin, values in outputs.items()}


def _went_on(event: Event, attempt: int) -> bool:
    return event.data.get("attempt", 0) > attempt or event.type in ENDS
