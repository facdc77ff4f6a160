"""Runs and their queue. One executor at a time owns a run; `attempt` fences off every earlier owner.

A run that is RUNNING or in REVIEW without an executor waits: for waking.py to put it back into the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Pool, Queryable
from backend.store.executors import DEAD_AFTER
from backend.store.waking import wake

# Channels of NOTIFY, as the statements below name them. A notification is a hint to look, never the news itself.
QUEUED = "run_queued"
STOP = "run_stop"  # the id of the run

# The statuses that a run keeps.
ENDED = frozenset({"COMPLETED", "FAILED", "TERMINATED"})


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One execution of one version of a graph.

    `parent_run_id` and `parent_node_run` are set for a run that a node of another run began; `depth` counts how many
    such runs it is below the first.
    """

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
    parent_run_id: UUID | None
    parent_node_run: int | None
    depth: int


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


async def insert_child(
    connection: Queryable,
    parent: StoredRun,
    node_run: int,
    id: UUID,
    graph_id: UUID,
    graph_version: int,
    inputs: dict[str, Any],
) -> None:
    """Queue a run that a node of `parent` began, once: if it is there already, nothing happens.

    Nothing happens either if this attempt does not own the parent any more, or the parent is to be stopped.
    """
    await connection.execute(
        """
        WITH parent AS (
            SELECT id FROM runs WHERE id = $1 AND attempt = $2 AND status = 'RUNNING' AND NOT stop_requested FOR SHARE
        ), run AS (
            INSERT INTO runs (
                id, graph_id, graph_version, status, inputs, parent_run_id, parent_node_run, parent_waits, depth
            )
            SELECT $4, $5, $6, 'QUEUED', $7, id, $3, true, $8 FROM parent ON CONFLICT (id) DO NOTHING RETURNING *
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, 1, 'run.queued', '{}', created_at FROM run
        )
        SELECT pg_notify('run_queued', '') FROM run
        """,
        parent.id,
        parent.attempt,
        node_run,
        id,
        graph_id,
        graph_version,
        inputs,
        parent.depth + 1,
    )


async def newest_of_children(connection: Queryable, parent_id: UUID) -> dict[UUID, int]:
    """The number of the last event of each run that nodes of this run began."""
    rows = await connection.fetch(
        "SELECT id, (SELECT max(number) FROM run_events WHERE run_id = runs.id) AS newest"
        " FROM runs WHERE parent_run_id = $1",
        parent_id,
    )
    return {row["id"]: row["newest"] for row in rows}


async def claim(connection: Queryable, executor: UUID, limit: int) -> list[StoredRun]:
    """Take up to `limit` queued runs, oldest first; from now on only this executor's attempt can write to them."""
    rows = await connection.fetch(
        """
        WITH next AS (
            SELECT id FROM runs WHERE status = 'QUEUED' ORDER BY created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        UPDATE runs SET
            status = 'RUNNING', executor = $1, attempt = attempt + 1, started_at = coalesce(started_at, now()),
            wake_at = NULL
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
            WHERE status = 'RUNNING' AND executor IS NOT NULL AND executor NOT IN (SELECT id FROM alive)
            RETURNING id
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
    """Stop a run and those below it: what no executor works on ends here and now, the others are told to, the lowest
    first. A run that waits for one of those below it ends when that has ended. None if there is no such run."""
    # Until nothing is new: what a run began in the meantime would go on without it.
    while await connection.fetchval(MARK_TO_STOP, id):
        pass
    await connection.execute(STOP_MARKED, id)
    run = await get(connection, id)
    if run and run.ended_at and run.parent_run_id:
        await wake(connection, run.parent_run_id)
    return run


TREE = """
    WITH RECURSIVE tree AS (
        SELECT id, executor, ARRAY[id] AS path FROM runs WHERE id = $1 AND ended_at IS NULL
        UNION ALL
        SELECT runs.id, runs.executor, path || runs.id FROM runs JOIN tree ON parent_run_id = tree.id
        WHERE runs.ended_at IS NULL
    )
"""

MARK_TO_STOP = f"""
    {TREE}, marked AS (
        UPDATE runs SET stop_requested = true FROM tree
        WHERE runs.id = tree.id AND ended_at IS NULL AND NOT stop_requested RETURNING runs.id
    )
    SELECT count(*) FROM marked
"""

STOP_MARKED = f"""
    {TREE}, at_work AS (
        SELECT DISTINCT unnest(path) AS id FROM tree WHERE executor IS NOT NULL
    ), ended AS (
        UPDATE runs SET status = 'TERMINATED', ended_at = now(), wake_at = NULL FROM tree
        WHERE runs.id = tree.id AND ended_at IS NULL
            AND runs.executor IS NULL AND runs.id NOT IN (SELECT id FROM at_work)
        RETURNING runs.id
    ), event AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT id, (SELECT max(number) + 1 FROM run_events WHERE run_id = ended.id), 'run.terminated', '{{}}', now()
        FROM ended
    ), rejected AS (
        UPDATE reviews SET status = 'REJECTED', review_message = 'The run was stopped.', reviewed_at = now()
        WHERE status = 'WAITING' AND run_id IN (SELECT id FROM tree)
    )
    SELECT pg_notify('run_stop', id::text), pg_notify('run_events', id::text)
    FROM (SELECT id FROM tree ORDER BY cardinality(path) DESC) AS lowest_first
"""


async def to_be_stopped(connection: Queryable, executor: UUID) -> list[UUID]:
    """The runs of this executor that somebody asked to stop, in case the notification was missed."""
    rows = await connection.fetch(
        "SELECT id FROM runs WHERE status = 'RUNNING' AND executor = $1 AND stop_requested", executor
    )
    return [row["id"] for row in rows]


async def get(connection: Queryable, id: UUID) -> StoredRun | None:
    row = await connection.fetchrow("SELECT * FROM runs WHERE id = $1", id)
    return _run(row) if row else None


class Wanted(TypedDict, total=False):
    """Which runs are looked for: those that meet all that is given."""

    graph_id: UUID | None
    statuses: Sequence[str] | None
    parent_run_id: UUID | None


_WANTED = (
    "($1::uuid IS NULL OR graph_id = $1) AND ($2::text[] IS NULL OR status = ANY($2))"
    " AND ($3::uuid IS NULL OR parent_run_id = $3)"
)


def _wanted(wanted: Wanted) -> list[object]:
    return [wanted.get(name) for name in ("graph_id", "statuses", "parent_run_id")]


async def page(
    connection: Queryable, *, limit: int, before: tuple[datetime, UUID] | None = None, **wanted: Unpack[Wanted]
) -> list[StoredRun]:
    """Runs, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"SELECT * FROM runs WHERE {_WANTED} AND ($5::timestamptz IS NULL OR (created_at, id) < ($5, $6::uuid))"
        " ORDER BY created_at DESC, id DESC LIMIT $4",
        *_wanted(wanted),
        limit,
        *(before or (None, None)),
    )
    return [_run(row) for row in rows]


async def count(connection: Queryable, **wanted: Unpack[Wanted]) -> int:
    return await connection.fetchval(f"SELECT count(*) FROM runs WHERE {_WANTED}", *_wanted(wanted))


def _run(row: Record) -> StoredRun:
    return StoredRun(*(row[field] for field in StoredRun.__slots__))
