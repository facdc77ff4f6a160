"""The event log: everything a run did, numbered without gaps, and the bus that all readers follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from backend.store import large_values
from backend.store.clock import CLOCK
from backend.store.connection import Queryable

# Channel of NOTIFY: ids of runs that have new events, separated by blanks. A hint to look, never the news itself.
EVENTS = "run_events"

# The types of the last event of a run.
ENDS = frozenset({"run.completed", "run.failed", "run.terminated"})

# Bytes. PostgreSQL refuses a notification of 8000 or more; an id and its separator are 37.
NOTIFIED_AT_ONCE = 7900 // 37


# Events and entries are not frozen: one is made for each step of each node, and frozen they take two and five times as
# long.
@dataclass(slots=True)
class Event:
    """One thing that happened in a run. `data` is a JSON object, or on the way in its JSON text without the `large`
    values, each as its hash and its JSON (large_values.py)."""

    number: int
    type: str
    data: Any
    created_at: datetime = field(default_factory=CLOCK.now)
    large: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class Entry:
    """What one attempt at a run wants written at once: events, and a status if with it this attempt lets go of the run:
    one of the ends; QUEUED for another executor to go on; RUNNING or REVIEW to wait, no longer than until `wake_at`.
    `node_runs` is how many node runs the run has begun by then."""

    run_id: UUID
    attempt: int
    events: Sequence[Event]
    status: str | None = None
    error: str | None = None
    wake_at: datetime | None = None
    node_runs: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its values, about."""
        size = 0
        for event in self.events:
            size += len(event.data)
            for _, raw in event.large:
                size += len(raw)
        return size


async def append(connection: Queryable, entries: Sequence[Entry]) -> set[UUID]:
    """Write entries of many runs in one transaction and notify their readers.

    An entry whose attempt no longer owns its run is not written. A run that goes back to the queue wakes the executors.
    Returns the ids of the runs that were written to.
    """
    owners = {entry.run_id: entry.attempt for entry in entries}
    # An executor may lose a run and claim it again while entries of its earlier attempt still wait.
    entries = [entry for entry in entries if entry.attempt == owners[entry.run_id]]
    rows = [(entry.run_id, event) for entry in entries for event in entry.events]
    let_go = [entry for entry in entries if entry.status]
    if large := [(run_id, *value) for run_id, event in rows for value in event.large]:
        await large_values.insert(connection, large)
    owned: list[UUID] | None = await connection.fetchval(
        APPEND,
        list(owners),
        list(owners.values()),
        [run_id for run_id, _ in rows],
        [event.number for _, event in rows],
        [event.type for _, event in rows],
        [event.data for _, event in rows],
        [event.created_at for _, event in rows],
        [entry.run_id for entry in let_go],
        [entry.status for entry in let_go],
        [entry.error for entry in let_go],
        [entry.wake_at for entry in let_go],
        [entry.node_runs for entry in let_go],
        _notifications(list(owners)),
    )
    return set(owned or ())


# A conflict can only be with ourselves: a batch whose answer was lost with the connection is sent again.
# The row lock of `owned` makes the fence hold until commit: a rescuer that raises `attempt` has to wait, or has won.
# A run that wants to wait while it was woken goes on: what woke it may have come after it looked. And one that was to
# be paused rests from here on.
APPEND = """
    WITH owned AS (
        SELECT runs.id FROM runs JOIN unnest($1::uuid[], $2::int[]) AS mine (id, attempt) USING (id, attempt)
        WHERE status = 'RUNNING' FOR SHARE OF runs
    ), written AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT run_id, number, type, data::json, created_at
        FROM unnest($3::uuid[], $4::int[], $5::text[], $6::text[], $7::timestamptz[])
            AS event (run_id, number, type, data, created_at)
        WHERE run_id IN (SELECT id FROM owned)
        ON CONFLICT (run_id, number) DO NOTHING
    ), let_go AS (
        UPDATE runs SET
            status = CASE
                WHEN final.status IN ('RUNNING', 'REVIEW') AND runs.wake_at = '-infinity' THEN 'QUEUED'
                ELSE final.status
            END,
            error = final.error, executor = NULL, wake_at = final.wake_at, node_runs = final.node_runs,
            has_place = runs.has_place AND final.status IN ('QUEUED', 'RUNNING') AND NOT runs.paused,
            ended_at = CASE WHEN final.status NOT IN ('QUEUED', 'RUNNING', 'REVIEW') THEN now() END
        FROM unnest($8::uuid[], $9::text[], $10::text[], $11::timestamptz[], $12::int[])
            AS final (id, status, error, wake_at, node_runs)
        WHERE runs.id = final.id AND final.id IN (SELECT id FROM owned) AND executor IS NOT NULL
        RETURNING runs.id, runs.status, runs.paused, ended_at
    ), rested AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT
            id, 1 + greatest(
                (SELECT max(number) FROM run_events WHERE run_id = id),
                (SELECT max(number) FROM unnest($3::uuid[], $4::int[]) AS event (run_id, number) WHERE run_id = id)
            ), 'run.paused', json_build_object('status', status), now()
        FROM let_go WHERE paused AND ended_at IS NULL
    )
    SELECT
        (SELECT array_agg(id) FROM owned),
        (SELECT count(pg_notify('run_events', hint)) FROM unnest($13::text[]) AS hint),
        (SELECT count(pg_notify('run_queued', '')) FROM let_go WHERE status = 'QUEUED')
"""


def _notifications(run_ids: Sequence[UUID]) -> list[str]:
    ids = [str(run_id) for run_id in run_ids]
    return [" ".join(ids[start : start + NOTIFIED_AT_ONCE]) for start in range(0, len(ids), NOTIFIED_AT_ONCE)]


async def add(connection: Queryable, run_id: UUID, events: Sequence[Event]) -> None:
    """Write events of a run that nobody owns yet."""
    if large := [(run_id, *value) for event in events for value in event.large]:
        await large_values.insert(connection, large)
    await connection.execute(
        """
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT $1, number, type, data::json, created_at
        FROM unnest($2::int[], $3::text[], $4::text[], $5::timestamptz[]) AS event (number, type, data, created_at)
        """,
        run_id,
        [event.number for event in events],
        [event.type for event in events],
        [event.data for event in events],
        [event.created_at for event in events],
    )


async def outputs_of(connection: Queryable, run_ids: Sequence[UUID]) -> dict[UUID, dict[str, list[Any]]]:
    """What runs have put out: the values of each output, in the order they came."""
    rows = await connection.fetch(
        """
        SELECT run_id, data FROM run_events WHERE run_id = ANY($1::uuid[]) AND type = 'run.output'
        ORDER BY run_id, number
        """,
        run_ids,
    )
    found: dict[UUID, dict[str, list[Any]]] = {}
    for run_id, of_run in groupby(rows, key=lambda row: row["run_id"]):
        outputs = [row["data"] for row in of_run]
        if await large_values.put_back(connection, run_id, outputs):
            by_name = found[run_id] = {}
            for output in outputs:
                by_name.setdefault(output["name"], []).append(output["value"])
    return found


async def read(connection: Queryable, run_id: UUID, *, after: int = 0, limit: int | None = None) -> list[Event]:
    """The next events of a run with a number above `after`, in order; none of a run that is just being deleted."""
    rows = await connection.fetch(
        "SELECT number, type, data, created_at FROM run_events"
        " WHERE run_id = $1 AND number > $2 ORDER BY number LIMIT $3",
        run_id,
        after,
        limit,
    )
    is_whole = await large_values.put_back(connection, run_id, [row["data"] for row in rows])
    return [Event(*row) for row in rows] if is_whole else []
