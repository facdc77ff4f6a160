"""Schedules: each is a row that knows when it is due next; what it begins then, and when it is due again, is one
transaction on that row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total

# Channel of NOTIFY: some schedule is due at another time than before.
CHANGED = "schedules_changed"

# A schedule that was reckoned so much later than it is now, was so by a clock that has been set right since.
WRONG_BY = "interval '1 minute'"


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """When runs of a graph begin, and with what. Either `cron` or `run_at` is there. `graph_version` null is the active
    one. `credentials` are references, by slot. `misfire` is once, skip or all. `next_run_at` is null when nothing is to
    come; `last_run_at` is the time for which it was last due, `last_error` why it began no run then."""

    id: UUID
    user_id: UUID
    name: str
    graph_id: UUID
    graph_version: int | None
    cron: str | None
    run_at: datetime | None
    timezone: str
    inputs: dict[str, Any]
    credentials: dict[str, Any]
    misfire: str
    paused: bool
    next_run_at: datetime | None
    advanced_at: datetime
    last_run_at: datetime | None
    last_run_id: UUID | None
    last_error: str | None
    created_at: datetime


# By their names: within a transaction `*` fails when a newer version of the code has added a column in the meantime.
_COLUMNS = ", ".join(StoredSchedule.__slots__)


class Given(TypedDict, total=False):
    """What may be said of a schedule, as StoredSchedule has it."""

    name: str
    graph_id: UUID
    graph_version: int | None
    cron: str | None
    run_at: datetime | None
    timezone: str
    inputs: dict[str, Any]
    credentials: dict[str, Any]
    misfire: str
    paused: bool
    next_run_at: datetime | None


async def now(connection: Queryable) -> datetime:
    """What time it is by the clock of the database, by which schedules go."""
    return await connection.fetchval("SELECT now()")


async def insert(connection: Queryable, id: UUID, user_id: UUID, **given: Unpack[Given]) -> StoredSchedule:
    values = {"id": id, "user_id": user_id, **given}
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    row = await connection.fetchrow(
        f"""
        WITH schedule AS (INSERT INTO schedules ({", ".join(values)}) VALUES ({places}) RETURNING {_COLUMNS})
        SELECT {_COLUMNS}, pg_notify('{CHANGED}', '') FROM schedule
        """,
        *values.values(),
    )
    assert row is not None
    return _schedule(row)


async def change(connection: Queryable, id: UUID, user_id: UUID, **given: Unpack[Given]) -> StoredSchedule | None:
    sets = "".join(f", {name} = ${number}" for number, name in enumerate(given, 3))
    row = await connection.fetchrow(
        f"""
        WITH schedule AS (
            UPDATE schedules SET advanced_at = now(){sets} WHERE id = $1 AND user_id = $2 RETURNING {_COLUMNS}
        )
        SELECT {_COLUMNS}, pg_notify('{CHANGED}', '') FROM schedule
        """,
        id,
        user_id,
        *given.values(),
    )
    return _schedule(row) if row else None


async def get(connection: Queryable, id: UUID, user_id: UUID, *, lock: bool = False) -> StoredSchedule | None:
    """With `lock`, nobody else changes it, or begins its runs, until the end of the transaction."""
    locked = " FOR UPDATE" if lock else ""
    query = f"SELECT {_COLUMNS} FROM schedules WHERE id = $1 AND user_id = $2{locked}"
    row = await connection.fetchrow(query, id, user_id)
    return _schedule(row) if row else None


async def delete(connection: Queryable, id: UUID, user_id: UUID) -> bool:
    """Whether there was one to delete."""
    query = "DELETE FROM schedules WHERE id = $1 AND user_id = $2 RETURNING id"
    return await connection.fetchval(query, id, user_id) is not None


async def page(
    connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None, graph_id: UUID | None = None
) -> list[StoredSchedule]:
    """Schedules, newest first, from just after the row at `before`."""
    query, arguments = _listing(_COLUMNS, user_id, before or START, graph_id)
    return [_schedule(row) for row in await connection.fetch(f"{query} LIMIT {limit:d}", *arguments)]


async def count(connection: Queryable, user_id: UUID, graph_id: UUID | None = None) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, *_listing("id", user_id, START, graph_id))


def _listing(columns: str, user_id: UUID, before: Place, graph_id: UUID | None) -> tuple[str, list[object]]:
    arguments: list[object] = [*before, user_id]
    of_graph = ""
    if graph_id:
        arguments.append(graph_id)
        of_graph = " AND graph_id = $4"
    where = f"(created_at, id) < ($1, $2) AND user_id = $3{of_graph}"
    return f"SELECT {columns} FROM schedules WHERE {where} ORDER BY created_at DESC, id DESC", arguments


@dataclass(frozen=True, slots=True)
class Advance:
    """What becomes of a schedule that was due. `fired_for` null: nothing has, it was only reckoned anew."""

    id: UUID
    next_run_at: datetime | None
    fired_for: datetime | None
    run_id: UUID | None
    error: str | None


async def lock_due(connection: Queryable, limit: int) -> tuple[datetime | None, list[StoredSchedule]]:
    """Schedules that are due, or were reckoned by a wrong clock, and that nobody else is about to advance; and now."""
    active = "next_run_at IS NOT NULL AND NOT paused"
    # Each by its own index: together they would be looked for among all.
    rows = await connection.fetch(
        f"""
        WITH due AS (
            SELECT {_COLUMNS} FROM schedules WHERE {active} AND next_run_at <= now()
            ORDER BY next_run_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ), ahead AS (
            SELECT {_COLUMNS} FROM schedules
            WHERE {active} AND next_run_at > now() AND advanced_at > now() + {WRONG_BY} LIMIT $1 FOR UPDATE SKIP LOCKED
        )
        SELECT *, now() AS now FROM (SELECT * FROM due UNION ALL SELECT * FROM ahead) AS found
        """,
        limit,
    )
    return (rows[0]["now"] if rows else None), [_schedule(row) for row in rows]


async def advance(connection: Queryable, advances: Sequence[Advance]) -> None:
    """Write down what became of locked schedules."""
    await connection.execute(
        """
        UPDATE schedules SET
            advanced_at = now(),
            next_run_at = advance.next_run_at,
            last_run_at = coalesce(fired_for, last_run_at),
            last_run_id = coalesce(run_id, last_run_id),
            last_error = CASE WHEN fired_for IS NULL THEN last_error ELSE error END
        FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::uuid[], $5::text[])
            AS advance (id, next_run_at, fired_for, run_id, error)
        WHERE schedules.id = advance.id
        """,
        [each.id for each in advances],
        [each.next_run_at for each in advances],
        [each.fired_for for each in advances],
        [each.run_id for each in advances],
        [each.error for each in advances],
    )


async def seconds_to_next(connection: Queryable) -> float | None:
    """Until some schedule is due, not above 0 if one is; None if none ever is."""
    return await connection.fetchval(
        "SELECT extract(epoch FROM min(next_run_at) - now())::float8 FROM schedules"
        " WHERE next_run_at IS NOT NULL AND NOT paused"
    )


def _schedule(row: Record) -> StoredSchedule:
    return StoredSchedule(*(row[field] for field in StoredSchedule.__slots__))
