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
from backend.store.runs import COLUMNS, StoredRun, run_of

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
        status = 'RUNNING', executor = $1, attempt = attempt + 1, wake_at = NULL, has_place = (parent_run_id IS NULL),
        started_at = coalesce(started_at, statement_timestamp())
"""

LIMITED = "status = 'QUEUED' AND NOT paused AND limited AND NOT has_place"
UNLIMITED = "status = 'QUEUED' AND NOT paused AND NOT limited"

# Only while no limited run waits for a place: which of them comes first is not to be seen here.
CLAIM = f"""
    WITH next AS (
        SELECT id FROM runs WHERE {UNLIMITED} AND NOT EXISTS (SELECT FROM runs WHERE {LIMITED})
        ORDER BY depth DESC, priority DESC, created_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    {TAKE} FROM next WHERE runs.id = next.id RETURNING {COLUMNS}
"""

CLAIM_THESE = f"""
    WITH next AS (
        SELECT id FROM runs WHERE id = ANY($2::uuid[]) AND status = 'QUEUED' AND NOT paused FOR UPDATE SKIP LOCKED
    )
    {TAKE} FROM next WHERE runs.id = next.id RETURNING {COLUMNS}
"""

# Two users may use the same key.
KEY = "(user_id || ' ' || concurrency_key)"

ANY_LIMITED = "SELECT EXISTS (SELECT FROM runs WHERE status = 'QUEUED' AND NOT paused AND limited)"

# What has a place goes on before others begin. Of each graph that is not full its first runs follow, but for those of
# full keys; the graphs are found by jumping from one to the next in the index.
FIRST = f"""
    WITH RECURSIVE queues AS (
        (SELECT graph_id FROM runs WHERE {LIMITED} ORDER BY graph_id LIMIT 1)
        UNION ALL
        SELECT following.graph_id FROM queues, LATERAL (
            SELECT graph_id FROM runs WHERE {LIMITED} AND graph_id > queues.graph_id ORDER BY graph_id LIMIT 1
        ) AS following
    ), first AS (
        SELECT runs.* FROM runs WHERE has_place AND status = 'QUEUED' AND NOT paused
        UNION ALL
        SELECT head.* FROM queues, LATERAL (
            SELECT * FROM runs
            WHERE {LIMITED} AND graph_id = queues.graph_id
                AND (concurrency_key IS NULL OR {KEY} <> ALL($3::text[]))
            ORDER BY priority DESC, created_at, id LIMIT $1
        ) AS head WHERE queues.graph_id <> ALL($2::uuid[])
        UNION ALL
        (SELECT * FROM runs WHERE {UNLIMITED} AND NOT has_place
        ORDER BY depth DESC, priority DESC, created_at, id LIMIT $1)
    )
    SELECT id, graph_id, {KEY} AS key, concurrency_limit, max_concurrent_runs AS graph_limit, depth, has_place
    FROM first LEFT JOIN graph_settings USING (graph_id)
    ORDER BY has_place DESC, depth DESC, priority DESC, created_at, id
"""


async def _claim_limited(pool: Pool, executor: UUID, wanted: int, at_most: int) -> Sequence[Record]:
    async with pool.acquire() as connection, connection.transaction():
        if not at_most and not await connection.fetchval(ANY_LIMITED):
            return []
        # Each a statement of its own: what the one before us claimed is seen only after we have the lock.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PLACES)
        places, claimed = Places(await connection.fetch(TAKEN), at_most), list[Record]()
        while len(claimed) < wanted:
            left = wanted - len(claimed)
            chosen = places.fill(await connection.fetch(FIRST, left, *places.full()), left)
            if not chosen:
                break
            claimed += await connection.fetch(CLAIM_THESE, executor, chosen)
        return claimed


TAKEN = f"""
    SELECT graph_id, {KEY} AS key, max(concurrency_limit) AS concurrency_limit,
        max(max_concurrent_runs) AS graph_limit, count(*) AS count
    FROM runs LEFT JOIN graph_settings USING (graph_id) WHERE has_place GROUP BY graph_id, key
"""


class Places:
    """Which runs may begin, given those that have a place; a run below another needs none."""

    def __init__(self, taken: Iterable[Record], at_most: int) -> None:
        self._at_most = at_most or math.inf
        self._taken: Counter[object] = Counter()
        self._full_graphs: set[UUID] = set()
        self._full_keys: set[str] = set()
        for row in taken:
            self._take(row, row["count"])

    def full(self) -> tuple[list[UUID], list[str]]:
        """The graphs and keys for which no place is left."""
        return list(self._full_graphs), list(self._full_keys)

    def fill(self, queued: Iterable[Record], wanted: int) -> list[UUID]:
        """The ids of the first of `queued`, in their order, for which there is a place."""
        chosen: list[UUID] = []
        for row in queued:
            if len(chosen) < wanted and (row["depth"] or row["has_place"] or self._is_free_for(row)):
                chosen.append(row["id"])
                if not row["depth"] and not row["has_place"]:
                    self._take(row, 1)
        return chosen

    def _is_free_for(self, row: Record) -> bool:
        self._note_full(row)
        free = row["graph_id"] not in self._full_graphs and row["key"] not in self._full_keys
        return free and self._taken["all"] < self._at_most

    def _take(self, row: Record, places: int) -> None:
        for of in ("all", row["graph_id"], (row["key"],)):
            self._taken[of] += places
        self._note_full(row)

    def _note_full(self, row: Record) -> None:
        if self._taken[row["graph_id"]] >= (row["graph_limit"] or math.inf):
            self._full_graphs.add(row["graph_id"])
        key = row["key"]
        if key is not None and self._taken[(key,)] >= (row["concurrency_limit"] or math.inf):
            self._full_keys.add(key)


async def release(connection: Queryable, executor: UUID, *, but: Sequence[UUID] = ()) -> None:
    """Put this executor's runs, but for some, back into the queue for another to go on with; what is paused rests."""
    await connection.execute(
        """
        WITH released AS (
            UPDATE runs SET
                status = 'QUEUED', executor = NULL, node_runs = NULL, has_place = has_place AND NOT paused
            WHERE status = 'RUNNING' AND executor = $1 AND id <> ALL($2::uuid[]) RETURNING id, status, paused
        ), rested AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT
                id, (SELECT max(number) + 1 FROM run_events WHERE run_id = id), 'run.paused',
                json_build_object('status', status), now()
            FROM released WHERE paused ON CONFLICT DO NOTHING RETURNING run_id
        )
        SELECT pg_notify('run_queued', ''), (SELECT count(pg_notify('run_events', run_id::text)) FROM rested)
        FROM released LIMIT 1
        """,
        executor,
        but,
    )


async def rescue(pool: Pool) -> list[tuple[UUID, str | None]]:
    """Requeue the runs whose executor is gone; that becomes an event of each, and of those that were to let go of it
    for a pause, that they rest. Returns their ids, each with that of the request that began it."""
    async with pool.acquire() as connection, connection.transaction():
        rows = await connection.fetch(
            """
            UPDATE runs SET
                status = 'QUEUED', executor = NULL, node_runs = NULL, has_place = has_place AND NOT paused
            WHERE status = 'RUNNING' AND executor IS NOT NULL AND executor NOT IN (SELECT id FROM executors)
            RETURNING id, request_id
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
    return [(row["id"], row["request_id"]) for row in rows]
