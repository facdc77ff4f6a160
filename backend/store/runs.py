"""Runs and their queue. One executor at a time owns a run; `attempt` fences off every earlier owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Pool, Queryable
from backend.store.executors import DEAD_AFTER

# Channels of NOTIFY, as the statements below name them. A notification is a hint to look, never the news itself.
QUEUED = "run_queued"
STOP = "run_stop"  # the id of the run


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One execution of one version of a graph."""

    id: UUID
    graph_id: UUID
    graph_version: int
    status: str
    inputs: dict[str, Any]
    error: str | None
    stop_requested: bool
    attempt: int
    executor: UUID | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


async def insert(
    connection: Queryable, id: UUID, graph_id: UUID, graph_version: int, inputs: dict[str, Any]
) -> StoredRun:
    """Queue a run: the row, its first event and the wake-up of an executor, in one transaction."""
    row = await connection.fetchrow(
        """
        WITH run AS (
            INSERT INTO runs (id, graph_id, graph_version, status, inputs) VALUES ($1, $2, $3, 'QUEUED', $4) RETURNING *
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, 1, 'run.queued', '{}', created_at FROM run
        )
        SELECT run.*, pg_notify('run_queued', '') FROM run
        """,
        id,
        graph_id,
        graph_version,
        inputs,
    )
    assert row is not None
    return _run(row)


async def claim(connection: Queryable, executor: UUID, limit: int) -> list[StoredRun]:
    """Take up to `limit` queued runs, oldest first; from now on only this executor's attempt can write to them."""
    rows = await connection.fetch(
        """
        WITH next AS (
            SELECT id FROM runs WHERE status = 'QUEUED' ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        UPDATE runs SET
            status = 'RUNNING', executor = $1, attempt = attempt + 1, started_at = coalesce(started_at, now())
        FROM next WHERE runs.id = next.id RETURNING runs.*
        """,
        executor,
        limit,
    )
    return [_run(row) for row in rows]


async def release(connection: Queryable, executor: UUID, *, but: Sequence[UUID] = ()) -> None:
    """Put this executor's runs, but for some, back into the queue for another to go on with."""
    await connection.execute(
        """
        WITH released AS (
            UPDATE runs SET status = 'QUEUED', executor = NULL
            WHERE status = 'RUNNING' AND executor = $1 AND id <> ALL($2::uuid[]) RETURNING id
        )
        SELECT pg_notify('run_queued', '') FROM released LIMIT 1
        """,
        executor,
        but,
    )


async def rescue(pool: Pool) -> list[UUID]:
    """Requeue the runs whose executor is dead; that becomes an event of each. Returns their ids."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            """
            WITH alive AS (
                SELECT id FROM executors WHERE heartbeat_at > now() - make_interval(secs => $1)
            )
            UPDATE runs SET status = 'QUEUED', executor = NULL
            WHERE status = 'RUNNING' AND executor NOT IN (SELECT id FROM alive) RETURNING id
            """,
            DEAD_AFTER,
        )
        # A statement of its own: only now that the rows are ours is it sure to see the last event of each.
        await connection.execute(
            """
            WITH rescued AS (
                INSERT INTO run_events (run_id, number, type, data, created_at)
                SELECT run_id, max(number) + 1, 'run.rescued', '{}', now()
                FROM run_events WHERE run_id = ANY($1::uuid[]) GROUP BY run_id RETURNING run_id
            )
            SELECT pg_notify('run_queued', ''), pg_notify('run_events', run_id::text) FROM rescued
            """,
            [row["id"] for row in rows],
        )
    return [row["id"] for row in rows]


async def request_stop(connection: Queryable, id: UUID) -> StoredRun | None:
    """Stop a run: a queued one ends here and now, a running one is told to. None if there is no such run."""
    row = await connection.fetchrow(
        """
        WITH run AS (
            UPDATE runs SET
                stop_requested = true,
                status = CASE status WHEN 'QUEUED' THEN 'TERMINATED' ELSE status END,
                ended_at = CASE status WHEN 'QUEUED' THEN now() ELSE ended_at END
            WHERE id = $1 AND status IN ('QUEUED', 'RUNNING') RETURNING *
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, (SELECT max(number) + 1 FROM run_events WHERE run_id = $1), 'run.terminated', '{}', now()
            FROM run WHERE status = 'TERMINATED'
        )
        SELECT run.*, pg_notify('run_stop', $1::text), pg_notify('run_events', $1::text) FROM run
        """,
        id,
    )
    return _run(row) if row else await get(connection, id)


async def to_be_stopped(connection: Queryable, executor: UUID) -> list[UUID]:
    """The runs of this executor that somebody asked to stop, in case the notification was missed."""
    rows = await connection.fetch(
        "SELECT id FROM runs WHERE status = 'RUNNING' AND executor = $1 AND stop_requested", executor
    )
    return [row["id"] for row in rows]


async def get(connection: Queryable, id: UUID) -> StoredRun | None:
    row = await connection.fetchrow("SELECT * FROM runs WHERE id = $1", id)
    return _run(row) if row else None


async def page(
    connection: Queryable,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
    graph_id: UUID | None = None,
    statuses: Sequence[str] | None = None,
) -> list[StoredRun]:
    """Runs, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        "SELECT * FROM runs WHERE ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))"
        " AND ($4::uuid IS NULL OR graph_id = $4) AND ($5::text[] IS NULL OR status = ANY($5))"
        " ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
        *(before or (None, None)),
        graph_id,
        statuses,
    )
    return [_run(row) for row in rows]


async def count(connection: Queryable, *, graph_id: UUID | None = None, statuses: Sequence[str] | None = None) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM runs"
        " WHERE ($1::uuid IS NULL OR graph_id = $1) AND ($2::text[] IS NULL OR status = ANY($2))",
        graph_id,
        statuses,
    )


async def delete_ended_before(connection: Queryable, days: int) -> int:
    """Retention: delete the runs, with their events, that ended more than `days` days ago. Returns how many."""
    return await connection.fetchval(
        """
        WITH old AS (
            SELECT id FROM runs WHERE ended_at < now() - make_interval(days => $1) LIMIT 1000
        ), gone AS (
            DELETE FROM runs USING old WHERE runs.id = old.id RETURNING runs.id
        ), events AS (
            DELETE FROM run_events USING gone WHERE run_events.run_id = gone.id
        )
        SELECT count(*) FROM gone
        """,
        days,
    )


def _run(row: Record) -> StoredRun:
    return StoredRun(*(row[field] for field in StoredRun.__slots__))
