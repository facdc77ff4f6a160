"""What becomes of runs, over many of them: the events that change the state of a run, and places in their stream.

Nothing numbers the events of all runs in the order in which they are committed, and nothing could without making
commits wait for each other. So a place is told by snapshots of PostgreSQL, which say exactly what was visible: all that
the snapshot `seen` shows, and, of what the later snapshot `seeing` shows beyond that, all up to the event `last`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.runs import OPEN

# Channel of NOTIFY. PostgreSQL gives all listeners all notifications in the order of their commits: whoever has heard
# this one has heard the hints of all that was visible when it was sent.
TURN = "run_changes_turn"

# The types of event that change the state of a run.
STATES = ("run.queued", "run.started", "run.resumed", "run.rescued", "run.waiting", "run.paused",
    "run.completed", "run.failed", "run.terminated")  # fmt: skip

# The longest time from the beginning of a transaction that ends runs to its end: longer than any lives (session.py).
LATE = "10 minutes"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# Where an event stands among those of one look: by time, but no event before an earlier one of its run.
Order = tuple[datetime, UUID, int]


class InvalidPosition(Exception):
    """It is no place in this stream."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream. `at` is when the snapshot `seen` was taken, or earlier."""

    seen: str
    at: datetime
    seeing: str | None = None
    last: Order | None = None

    def __str__(self) -> str:
        parts = [str((self.at - EPOCH) // MICROSECOND), self.seen]
        if self.seeing and self.last:
            time, run_id, number = self.last
            parts += [self.seeing, str((time - EPOCH) // MICROSECOND), run_id.hex, str(number)]
        return ".".join(parts)


_TIME, _SNAPSHOT = r"\d{1,17}", r"\d{1,19}:\d{1,19}:[\d,]{0,6000}"
_POSITION = re.compile(rf"({_TIME})\.({_SNAPSHOT})(?:\.({_SNAPSHOT})\.({_TIME})\.([0-9a-f]{{32}})\.(\d{{1,9}}))?")


async def position_of(connection: Queryable, text: str) -> Position:
    """The place that was written as this text. Raises InvalidPosition, also for a place in another database."""
    found = _POSITION.fullmatch(text)
    if found is None or not text.isascii():
        raise InvalidPosition
    at, seen, seeing, moment, run_id, number = found.groups()
    await _check(connection, [seen, seeing or seen])
    if seeing is None:
        return Position(seen, _time(at))
    return Position(seen, _time(at), seeing, (_time(moment), UUID(run_id), int(number)))


def _time(microseconds: str) -> datetime:
    try:
        return EPOCH + int(microseconds) * MICROSECOND
    except OverflowError:
        raise InvalidPosition from None


async def _check(connection: Queryable, snapshots: Sequence[str]) -> None:
    try:
        known = await connection.fetchval(
            "SELECT bool_and(pg_snapshot_xmax(given::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot()))"
            " FROM unnest($1::text[]) AS given",
            snapshots,
        )
    except asyncpg.DataError:
        raise InvalidPosition from None
    if not known:
        raise InvalidPosition


async def here(connection: Queryable) -> Position:
    """The place after all that is visible now: to this statement, or to all of a transaction that sees one snapshot."""
    row = await connection.fetchrow("SELECT pg_current_snapshot()::text AS seen, statement_timestamp() AS at")
    assert row is not None
    return Position(row["seen"], row["at"])


async def call_turn(connection: Queryable, name: str) -> Position:
    """Send `name` on TURN; returns the place up to which everything was hinted to whoever hears it."""
    row = await connection.fetchrow(
        "SELECT pg_current_snapshot()::text AS seen, now() AS at, pg_notify('run_changes_turn', $1)", name
    )
    assert row is not None
    return Position(row["seen"], row["at"])


@dataclass(frozen=True, slots=True)
class Change:
    """An event that changed the state of a run, and the place after it."""

    run_id: UUID
    number: int
    type: str
    data: dict[str, Any]
    created_at: datetime
    user_id: UUID
    graph_id: UUID
    graph_version: int
    position: Position

    @property
    def status(self) -> str:
        """What the run is after it."""
        return STATUS_AFTER.get(self.type) or self.data.get("status", "RUNNING")


STATUS_AFTER = {
    "run.queued": "QUEUED",
    "run.started": "RUNNING",
    "run.resumed": "RUNNING",
    "run.rescued": "QUEUED",
    "run.completed": "COMPLETED",
    "run.failed": "FAILED",
    "run.terminated": "TERMINATED",
}

# A row keeps 32 of the 64 bits of the transaction that wrote it; the rest follows from that of today.
XID = "greatest(newest - 1 - ((newest - 1 - event.xmin::text::bigint) & 4294967295), 3)::text::xid8"
NEWEST = "(SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS newest OFFSET 0) AS today"
STATE = f"type IN {STATES}"


async def of_runs(
    connection: Queryable, known: Mapping[UUID, int], seen: str, seeing: str
) -> tuple[list[Record], dict[UUID, int]]:
    """The changes of some runs that `seeing` shows and `seen` does not, looked for after the `known` numbers; and the
    numbers up to which they need not be looked for again."""
    rows = await connection.fetch(
        f"""
        SELECT run_id, number, type, created_at, user_id, graph_id, graph_version, newest_number, is_new,
            CASE WHEN is_new THEN data END AS data
        FROM (
            SELECT run_id, number, type, data, event.created_at, user_id, graph_id, graph_version,
                max(number) OVER (PARTITION BY run_id) AS newest_number,
                {STATE} AND NOT pg_visible_in_snapshot(xid, $3::text::pg_snapshot) AS is_new
            FROM {NEWEST}, unnest($1::uuid[], $2::int[]) AS known (run_id, after) JOIN runs ON runs.id = run_id,
                LATERAL (
                    SELECT number, type, data, event.created_at, {XID} AS xid FROM run_events AS event
                    WHERE event.run_id = known.run_id AND number > after OFFSET 0
                ) AS event
            WHERE pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
        ) AS found WHERE is_new OR number = newest_number
        """,
        list(known),
        list(known.values()),
        seen,
        seeing,
    )
    return [row for row in rows if row["is_new"]], {row["run_id"]: row["newest_number"] for row in rows}


async def between(
    connection: Queryable, seen: Position, seeing: str, user_id: UUID | None = None, graph_id: UUID | None = None
) -> list[Record]:
    """What the snapshot `seeing` shows and `seen` does not, of all runs, or those of a user, or of one of their graphs:
    the changes without their data."""
    arguments: list[object] = [seen.seen, seeing, seen.at]
    whose = ""
    for column, value in (("user_id", user_id), ("graph_id", graph_id)):
        if value is not None:
            arguments.append(value)
            whose += f" AND {column} = ${len(arguments)}"
    return await connection.fetch(
        f"""
        SELECT run_id, number, event.created_at FROM {NEWEST}, (
            SELECT id FROM runs WHERE id = ANY(ARRAY({OPEN})){whose}
            UNION ALL
            SELECT id FROM runs WHERE ended_at >= $3::timestamptz - interval '{LATE}'{whose}
            OFFSET 0
        ) AS candidate, LATERAL (
            SELECT run_id, number, event.created_at, {XID} AS xid FROM run_events AS event
            WHERE run_id = candidate.id AND {STATE} OFFSET 0
        ) AS event
        WHERE pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
            AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
        """,
        *arguments,
    )


async def read(connection: Queryable, places: Sequence[Order]) -> dict[tuple[UUID, int], Record]:
    """The changes at these places, but for those of runs that were deleted."""
    rows = await connection.fetch(
        """
        SELECT run_id, number, type, data, event.created_at, user_id, graph_id, graph_version
        FROM unnest($1::uuid[], $2::int[]) AS wanted (run_id, number)
            JOIN run_events AS event USING (run_id, number) JOIN runs ON runs.id = run_id
        """,
        [run_id for _, run_id, _ in places],
        [number for _, _, number in places],
    )
    return {(row["run_id"], row["number"]): row for row in rows}


def ordered(rows: Iterable[Record]) -> list[tuple[Order, Record]]:
    """What one look has found, in an order that is the same whoever looks, and however often."""
    found: list[tuple[Order, Record]] = []
    moments: dict[UUID, datetime] = {}
    for row in sorted(rows, key=lambda row: row["number"]):
        moment = max(row["created_at"], moments.get(row["run_id"], row["created_at"]))
        moments[row["run_id"]] = moment
        found.append(((moment, row["run_id"], row["number"]), row))
    return sorted(found, key=lambda each: each[0])


def changes(found: Iterable[tuple[Order, Record]], seen: Position, seeing: str) -> Iterator[Change]:
    """What was found between two snapshots, each with its place."""
    for order, row in found:
        position = Position(seen.seen, seen.at, seeing, order)
        yield Change(
            row["run_id"], row["number"], row["type"], row["data"], row["created_at"],
            row["user_id"], row["graph_id"], row["graph_version"], position,
        )  # fmt: skip
