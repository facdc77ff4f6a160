"""The queue of runs: an executor claims what comes first, and what it does not end goes back.

First come runs below others, for those wait for them; then those of a higher priority, then the oldest. A run is
`limited` if its graph, or its concurrency key, may only have so many runs at work at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Pool, Queryable
from backend.store.runs import StoredRun, run_of

# The advisory lock under which limited runs are claimed, so that no two executors take the last place.
PLACES = 7_201_401


async def claim(pool: Pool, executor: UUID, wanted: int, at_most: int = 0) -> list[StoredRun]:
    """Take up to `wanted` queued runs; from now on only this executor's attempt can write to them.

    `at_most` is how many runs may be at work in all, not counting those below others; 0 is any number.
    """
    rows: Sequence[Record] = ()
    if not at_most:
        rows = await pool.fetch(CLAIM, executor, wanted)
    if not rows:
        rows = await _claim_limited(pool, executor, wanted, at_most)
    return [run_of(row) for row in rows]


# By the time of the statement: that of the transaction is from before it waited for its turn, and for newer runs.
TAKE = """
    UPDATE runs SET
        status = 'RUNNING', executor = $1, attempt = attempt + 1, wake_at = NULL,
        started_at = coalesce(started_at, statement_timestamp())
"""

# Only while no limited run is queued: which of them comes first is not to be seen here.
CLAIM = f"""
    WITH next AS (
        SELECT id FROM runs WHERE status = 'QUEUED' AND NOT paused AND NOT limited
            AND NOT EXISTS (SELECT FROM runs WHERE status = 'QUEUED' AND NOT paused AND limited)
        ORDER BY depth DESC, priority DESC, created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    {TAKE} FROM next WHERE runs.id = next.id RETURNING runs.*
"""

CLAIM_THESE = f"""
    WITH next AS (
        SELECT id FROM runs WHERE id = ANY($2::uuid[]) AND status = 'QUEUED' AND NOT paused FOR UPDATE SKIP LOCKED
    )
    {TAKE} FROM next WHERE runs.id = next.id RETURNING runs.*
"""

# The first of every queue: of the one without limits, and of each there is for a graph and a key, which are found by
# jumping from one to the next in the index.
FIRST = """
    WITH RECURSIVE queues AS (
        (SELECT graph_id, coalesce(concurrency_key, '') AS key FROM runs
        WHERE status = 'QUEUED' AND NOT paused AND limited
        ORDER BY graph_id, coalesce(concurrency_key, '') LIMIT 1)
        UNION ALL
        SELECT following.* FROM queues, LATERAL (
            SELECT graph_id, coalesce(concurrency_key, '') FROM runs
            WHERE status = 'QUEUED' AND NOT paused AND limited
                AND (graph_id, coalesce(concurrency_key, '')) > (queues.graph_id, queues.key)
            ORDER BY graph_id, coalesce(concurrency_key, '') LIMIT 1
        ) AS following
    ), first AS (
        SELECT head.* FROM queues, LATERAL (
            SELECT id, graph_id, concurrency_key, concurrency_limit, depth, priority, created_at FROM runs
            WHERE status = 'QUEUED' AND NOT paused AND limited
                AND graph_id = queues.graph_id AND coalesce(concurrency_key, '') = queues.key
            ORDER BY priority DESC, created_at, id LIMIT $1
        ) AS head
        UNION ALL
        (SELECT id, graph_id, concurrency_key, concurrency_limit, depth, priority, created_at FROM runs
        WHERE status = 'QUEUED' AND NOT paused AND NOT limited
        ORDER BY depth DESC, priority DESC, created_at, id LIMIT $1)
    )
    SELECT first.*, max_concurrent_runs AS graph_limit FROM first LEFT JOIN graph_settings USING (graph_id)
    ORDER BY depth DESC, priority DESC, created_at, id
"""


async def _claim_limited(pool: Pool, executor: UUID, wanted: int, at_most: int) -> Sequence[Record]:
    async with pool.acquire() as connection, connection.transaction():
        if not at_most and not await connection.fetchval(
            "SELECT EXISTS (SELECT FROM runs WHERE status = 'QUEUED' AND NOT paused AND limited)"
        ):
            return []
        # Each a statement of its own: what the one before us claimed is seen only after we have the lock.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PLACES)
        places = Places(await connection.fetch(AT_WORK), at_most)
        chosen = places.fill(await connection.fetch(FIRST, wanted), wanted)
        return await connection.fetch(CLAIM_THESE, executor, chosen) if chosen else []


# What waits for a run below it, or for a time, keeps its place; what waits for a person does not.
AT_WORK = """
    SELECT graph_id, concurrency_key, count(*) AS count FROM runs
    WHERE status = 'RUNNING' AND parent_run_id IS NULL GROUP BY graph_id, concurrency_key
"""


class Places:
    """Which runs may begin, given those at work. A run below another takes no place: its first ancestor has one."""

    def __init__(self, at_work: Iterable[Record], at_most: int) -> None:
        self._at_most = at_most or math.inf
        self._taken: Counter[object] = Counter()
        for row in at_work:
            self._take(row, row["count"])

    def fill(self, queued: Iterable[Record], wanted: int) -> list[UUID]:
        """The ids of the first of `queued`, in their order, for which there is a place."""
        chosen: list[UUID] = []
        for row in queued:
            if len(chosen) < wanted and (row["depth"] or self._has_place(row)):
                chosen.append(row["id"])
                if not row["depth"]:
                    self._take(row, 1)
        return chosen

    def _has_place(self, row: Record) -> bool:
        return (
            self._taken["all"] < self._at_most
            and self._taken[row["graph_id"]] < (row["graph_limit"] or math.inf)
            and self._taken[(row["concurrency_key"],)] < (row["concurrency_limit"] or math.inf)
        )

    def _take(self, row: Record, places: int) -> None:
        for of in ("all", row["graph_id"], (row["concurrency_key"],)):
            self._taken[of] += places


async def release(connection: Queryable, executor: UUID, *, but: Sequence[UUID] = ()) -> None:
    """Put this executor's runs, but for some, back into the queue for another to go on with."""
    await connection.execute(
        """
        WITH released AS (
            UPDATE runs SET status = 'QUEUED', executor = NULL, node_runs = NULL
            WHERE status = 'RUNNING' AND executor = $1 AND id <> ALL($2::uuid[]) RETURNING id
        )
        SELECT pg_notify('run_queued', '') FROM released LIMIT 1
        """,
        executor,
        but,
    )


async def rescue(pool: Pool) -> list[UUID]:
    """Requeue the runs whose executor is gone; that becomes an event of each, and of those that were to let go of it
    for a pause, that they rest. Returns their ids."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            """
            UPDATE runs SET status = 'QUEUED', executor = NULL, node_runs = NULL
            WHERE status = 'RUNNING' AND executor IS NOT NULL AND executor NOT IN (SELECT id FROM executors)
            RETURNING id
            """
        )
        # A statement of its own: only now that the rows are ours is it sure to see the last event of each.
        await connection.execute(
            """
            WITH rescued AS (
                INSERT INTO run_events (run_id, number, type, data, created_at)
                SELECT
                    id, (SELECT max(number) FROM run_events WHERE run_id = id) + place, type,
                    CASE type WHEN 'run.paused' THEN json_build_object('status', status) ELSE '{}' END, now()
                FROM runs, (VALUES (1, 'run.rescued'), (2, 'run.paused')) AS told (place, type)
                WHERE id = ANY($1::uuid[]) AND (paused OR type = 'run.rescued') RETURNING run_id
            )
            SELECT pg_notify('run_queued', ''), pg_notify('run_events', run_id::text) FROM rescued
            """,
            [row["id"] for row in rows],
        )
    return [row["id"] for row in rows]
