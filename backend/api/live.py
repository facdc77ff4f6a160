"""What a run looks like to the clients of the WebSocket server, one message for each change, in upstream's shapes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID

from backend.execution.history import History, NodeRun
from backend.store import changes, events, runs
from backend.store.changes import STATUS_AFTER, Change, Position
from backend.store.connection import Pool, Queryable
from backend.store.events import Event
from backend.store.feed import Feed, newest
from backend.store.identifiers import node_run_id
from backend.store.runs import StoredRun

# Runs of a graph that are shown first, the newest of those that have not ended.
WATCHED_RUNS = 100
OPEN = ("QUEUED", "RUNNING", "REVIEW")

Message = dict[str, Any]


class LiveRun:
    """A run as of some event of it."""

    def __init__(self, run: StoredRun) -> None:
        self._run = replace(run, status="QUEUED", started_at=None, ended_at=None, error=None)
        self._history = History()

    def apply(self, event: Event) -> None:
        self._history.apply(event)
        if status := STATUS_AFTER.get(event.type, event.data.get("status")):
            self._run = replace(self._run, status=status, error=event.data.get("error"))
        if event.type == "run.started":
            self._run = replace(self._run, started_at=event.created_at)
        elif self._run.status in ("COMPLETED", "FAILED", "TERMINATED"):
            self._run = replace(self._run, ended_at=event.created_at)

    def change(self, event: Event) -> Iterator[Message]:
        """What an event that was applied last has changed."""
        if event.type.startswith("node."):
            yield self._node_message(self._history.node_runs[event.data["node_run"]], event.number)
        elif event.type != "run.warning":
            yield run_message(self._run, self._history, event.number)

    def snapshot(self, number: int) -> Iterator[Message]:
        """All there is to show after event `number`."""
        for node_run in self._history.node_runs.values():
            yield self._node_message(node_run, number)
        yield run_message(self._run, self._history, number)

    def _node_message(self, node_run: NodeRun, number: int) -> Message:
        data = {
            "event_type": "node_execution_update",
            "user_id": self._run.user_id,
            "graph_id": self._run.graph_id,
            "graph_version": self._run.graph_version,
            "graph_exec_id": self._run.id,
            "node_exec_id": node_run_id(self._run.id, node_run.number),
            "node_id": node_run.node_id,
            "block_id": node_run.block_id,
            "status": node_run.status,
            "input_data": node_run.inputs,
            "output_data": node_run.outputs,
            "add_time": node_run.started_at,
            "queue_time": node_run.started_at,
            "start_time": node_run.started_at,
            "end_time": node_run.ended_at,
        }
        return {"method": "node_execution_event", "data": data, "event_id": number}


def run_message(run: StoredRun, history: History, number: int | str | None) -> Message:
    data = {
        "event_type": "graph_execution_update",
        "id": run.id,
        "user_id": run.user_id,
        "graph_id": run.graph_id,
        "graph_version": run.graph_version,
        "preset_id": None,
        "status": run.status,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
        "inputs": run.inputs,
        "outputs": history.outputs,
        "error": run.error,
    }
    return {"method": "graph_execution_event", "data": data, "event_id": number}


async def follow_run(database: Queryable, feed: Feed, run: StoredRun, after: int | None) -> AsyncGenerator[Message]:
    """Every change of a run after event `after`; without that, first all there is, then every change from now on."""
    live = LiveRun(run)
    shown = await newest(database, run.id) if after is None else after
    async with aclosing(feed.follow(run.id, 0)) as batches:
        async for batch in batches:
            for event in (item.event for item in batch):
                live.apply(event)
                messages = live.change(event) if event.number > shown else ()
                if event.number == shown and after is None:
                    messages = live.snapshot(event.number)
                for message in messages:
                    yield message


async def follow_graph(
    database: Pool, feed: Feed, user_id: UUID, graph_id: UUID, after: Position | None
) -> AsyncGenerator[Message]:
    """A message whenever a run of the graph begins, moves on or ends after this place; without one, first those that
    have not ended. The place after a message is its `event_id`."""
    if after is None:
        async with database.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            after = await changes.here(connection)
            found = await runs.page(connection, user_id, limit=WATCHED_RUNS, graph_id=graph_id, statuses=OPEN)
        for run in found[::-1]:
            yield run_message(run, History(), str(after) if run is found[0] else None)
    async with aclosing(feed.watch.follow(after, user_id, graph_id)) as batches:
        async for _, batch in batches:
            ids = [change.run_id for change in batch]
            rows = await runs.get_many(database, ids)
            outputs = await events.outputs_of(database, [each.run_id for each in batch if each.type in events.ENDS])
            for change in batch:
                if run := rows.get(change.run_id):
                    yield _change_message(run, change, outputs.get(run.id, {}))


def _change_message(run: StoredRun, change: Change, outputs: dict[str, list[Any]]) -> Message:
    ended = change.type in events.ENDS
    then = replace(
        run,
        status=change.status,
        started_at=None if change.type == "run.queued" else run.started_at,
        ended_at=run.ended_at if ended else None,
        error=run.error if ended else None,
    )
    return run_message(then, History(outputs=outputs if ended else {}), str(change.position))
