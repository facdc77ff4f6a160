"""Stopping, pausing and resuming a run, always with all that are below it."""

from __future__ import annotations

from uuid import UUID

from asyncpg import TransactionRollbackError

from backend.store.connection import Pool, Queryable
from backend.store.runs import StoredRun, get
from backend.store.waking import wake

# Channels of NOTIFY: the id of a run that its executor has to end, or to let go of.
STOP = "run_stop"
PAUSE = "run_pause"

# Times that a statement is tried which locks runs one after the other, as an executor does in another order.
TRIES = 5

TREE = """
    WITH RECURSIVE tree AS (
        SELECT id, executor, ARRAY[id] AS path FROM runs WHERE id = $1 AND ended_at IS NULL
        UNION ALL
        SELECT runs.id, runs.executor, path || runs.id FROM runs JOIN tree ON parent_run_id = tree.id
        WHERE runs.ended_at IS NULL
    )
"""


async def request_stop(pool: Pool, id: UUID) -> StoredRun | None:
    """Stop a run and those below it: what no executor works on ends here and now, the others are told to, the lowest
    first. A run that waits for one of those below it ends when that has ended; to do so it is paused no longer. None if
    there is no such run."""
    await _to_all(pool, id, _marking("stop_requested = true, paused = false", unless="stop_requested"), STOP_MARKED)
    run = await get(pool, id)
    if run and run.ended_at and run.parent_run_id:
        await wake(pool, run.parent_run_id)
    return run


# Both tell the executors to look into the queue: whoever claimed meanwhile has passed over what was locked.
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
    SELECT pg_notify('run_stop', id::text), pg_notify('run_events', id::text), pg_notify('run_queued', '')
    FROM (SELECT id FROM tree ORDER BY cardinality(path) DESC) AS lowest_first
"""


async def pause(pool: Pool, id: UUID) -> StoredRun | None:
    """Let a run and those below it rest: executors begin no more of their nodes, and let go of them once those at work
    have finished; then they keep out of the queue. What is to be stopped is not paused. None if there is no such
    run."""
    await _to_all(pool, id, _marking("paused = true", unless="paused OR stop_requested"), PAUSE_MARKED)
    return await get(pool, id)


# An executor that lets go of a run which it was told to pause writes the event itself.
PAUSE_MARKED = f"""
    {TREE}, resting AS (
        SELECT id, status, number, type FROM tree JOIN runs USING (id), LATERAL (
            SELECT number, type FROM run_events WHERE run_id = tree.id ORDER BY number DESC LIMIT 1
        ) AS last WHERE tree.executor IS NULL AND paused AND type <> 'run.paused'
    ), event AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT id, number + 1, 'run.paused', json_build_object('status', status), now() FROM resting
    )
    SELECT pg_notify('run_pause', id::text), pg_notify('run_events', id::text), pg_notify('run_queued', '') FROM tree
"""


async def resume(pool: Pool, id: UUID) -> StoredRun | None:
    """Let a run that was paused, and those below it, go on. None if there is no such run."""
    await pool.execute(
        f"""
        {TREE}, resumed AS (
            UPDATE runs SET paused = false FROM tree WHERE runs.id = tree.id AND paused RETURNING runs.id
        )
        SELECT pg_notify('run_queued', '') FROM resumed LIMIT 1
        """,
        id,
    )
    return await get(pool, id)


async def told(connection: Queryable, executor: UUID) -> list[tuple[str, UUID]]:
    """What the runs of this executor were told to do, as channel and run: a notification may have been missed."""
    rows = await connection.fetch(
        "SELECT id, stop_requested FROM runs WHERE status = 'RUNNING' AND executor = $1 AND (stop_requested OR paused)",
        executor,
    )
    return [(STOP if row["stop_requested"] else PAUSE, row["id"]) for row in rows]


def _marking(change: str, unless: str) -> str:
    """A statement that locks a run and all below it, changes each `unless` that is so, and returns how many it did."""
    return f"""
        {TREE}, locked AS (
            SELECT id, {unless} AS marked FROM runs WHERE id IN (SELECT id FROM tree) AND ended_at IS NULL FOR UPDATE
        ), done AS (
            UPDATE runs SET {change} FROM locked WHERE runs.id = locked.id AND NOT locked.marked RETURNING runs.id
        )
        SELECT count(*) FROM done
    """


async def _to_all(pool: Pool, id: UUID, marking: str, then: str) -> None:
    """Mark a run and all below it, lock them, and do `then`, which so sees the last event of each."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with pool.acquire() as connection, connection.transaction():
                # Until nothing is new: what a run began in the meantime would go on without it.
                while await connection.fetchval(marking, id):
                    pass
                await connection.execute(then, id)
                return
        except TransactionRollbackError:
            if not tries_left:
                raise
