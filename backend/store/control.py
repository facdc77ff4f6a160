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
    first. A run that waits for one of those below it ends when that has ended. None if there is no such run."""
    # A paused run would never be taken up to end, nor would one above it that waits for its end.
    await _to_all(pool, id, "NOT stop_requested", "stop_requested = true, paused = false", STOP_MARKED)
    run = await get(pool, id)
    if run and run.ended_at and run.parent_run_id:
        await wake(pool, run.parent_run_id)
    return run


# Both tell the executors to look into the queue: whoever claimed meanwhile has passed over what was locked.
STOP_MARKED = f"""
    {TREE}, at_work AS (
        SELECT DISTINCT unnest(path) AS id FROM tree WHERE executor IS NOT NULL
    ), ended AS (
        UPDATE runs SET status = 'TERMINATED', ended_at = now(), wake_at = NULL, has_place = false FROM tree
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
    await _to_all(pool, id, "NOT paused AND NOT stop_requested", "paused = true", PAUSE_MARKED)
    return await get(pool, id)


# An executor that lets go of a run which it was told to pause writes the event itself. What was never begun has no
# other event than the first unless `node_runs` is known: so the executor that begins it need not look (executor.py).
PAUSE_MARKED = f"""
    {TREE}, resting AS (
        SELECT id, status, number, type FROM tree JOIN runs USING (id), LATERAL (
            SELECT number, type FROM run_events WHERE run_id = tree.id ORDER BY number DESC LIMIT 1
        ) AS last WHERE tree.executor IS NULL AND paused AND type <> 'run.paused'
    ), rested AS (
        UPDATE runs SET has_place = false, node_runs = CASE WHEN attempt = 0 THEN 0 ELSE node_runs END
        WHERE id IN (SELECT id FROM resting)
    ), event AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT id, number + 1, 'run.paused', json_build_object('status', status), now() FROM resting
    )
    SELECT pg_notify('run_pause', id::text), pg_notify('run_events', id::text), pg_notify('run_queued', '') FROM tree
"""


async def resume(pool: Pool, id: UUID) -> StoredRun | None:
    """Let a run that was paused, and those below it, go on. None if there is no such run."""
    await _to_all(pool, id, "paused", "paused = false")
    return await get(pool, id)


async def told(connection: Queryable, executor: UUID) -> list[tuple[str, UUID]]:
    """What the runs of this executor were told to do, as channel and run: a notification may have been missed."""
    rows = await connection.fetch(
        "SELECT id, stop_requested FROM runs WHERE status = 'RUNNING' AND executor = $1 AND (stop_requested OR paused)",
        executor,
    )
    return [(STOP if row["stop_requested"] else PAUSE, row["id"]) for row in rows]


async def _to_all(pool: Pool, id: UUID, where: str, change: str, then: str | None = None) -> None:
    """Change a run and all below it, `where` that is to be done, lock them, and do `then`, which so sees the last event
    of each."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with pool.acquire() as connection, connection.transaction():
                # Until nothing is new: what a run began in the meantime would be left out.
                while await connection.fetchval(_changing(where, change), id):
                    pass
                if then:
                    await connection.execute(then, id)
                # There may be a place left; and whoever claimed in the meantime has passed over what we had locked.
                await connection.execute("SELECT pg_notify('run_queued', '')")
                return
        except TransactionRollbackError:
            if not tries_left:
                raise


def _changing(where: str, change: str) -> str:
    return f"""
        {TREE}, locked AS (
            SELECT id, {where} AS due FROM runs WHERE id IN (SELECT id FROM tree) AND ended_at IS NULL
            ORDER BY id FOR UPDATE
        ), done AS (
            UPDATE runs SET {change} FROM locked WHERE runs.id = locked.id AND due RETURNING runs.id
        )
        SELECT count(*) FROM done
    """
