"""Retention: which ended runs are kept, by their age and by their number; the others go with all that is theirs.
Graphs that are deleted go when the last of their runs has gone.

A run that a node of another began goes with that one and is not counted. No run goes before all below it have ended,
nor before the one above it, which would begin it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from asyncpg import ForeignKeyViolationError

from backend.store.connection import Pool, Queryable

# Runs, not counting those below them, that are deleted in one transaction.
AT_ONCE = 200

# Counted for each run on its own: for EXISTS, PostgreSQL may read all runs there are.
NOTHING_BELOW = "(SELECT count(*) FROM runs WHERE parent_run_id = ended.id AND ended_at IS NULL) = 0"

# A run whose parent is gone is on its own.
OLD = f"""
    SELECT id FROM runs AS ended WHERE ended_at < now() - make_interval(days => $1) AND {NOTHING_BELOW}
        AND (parent_run_id IS NULL OR (SELECT count(*) FROM runs WHERE id = ended.parent_run_id) = 0)
    ORDER BY ended_at LIMIT {AT_ONCE}
"""

BEYOND = f"""
    SELECT id FROM (
        SELECT id FROM runs WHERE graph_id = $1 AND parent_run_id IS NULL AND ended_at IS NOT NULL
        ORDER BY created_at DESC, id DESC OFFSET $2
    ) AS ended WHERE {NOTHING_BELOW} LIMIT {AT_ONCE}
"""

WITH_THOSE_BELOW = """
    WITH RECURSIVE tree AS (
        SELECT id AS top, id, ended_at FROM runs AS ended WHERE id = ANY($1::uuid[]) AND NOT (
            SELECT count(*) > 0 FROM runs WHERE id = ended.parent_run_id AND ended_at IS NULL
        )
        UNION ALL
        SELECT top, runs.id, runs.ended_at FROM runs JOIN tree ON parent_run_id = tree.id
    )
    SELECT id FROM tree WHERE top NOT IN (SELECT top FROM tree WHERE ended_at IS NULL)
"""

DELETE = """
    WITH events AS (
        DELETE FROM run_events WHERE run_id = ANY($1::uuid[])
    ), values AS (
        DELETE FROM run_values WHERE run_id = ANY($1::uuid[])
    )
    DELETE FROM runs WHERE id = ANY($1::uuid[])
"""


# With it go those that came in its file, so none of these may have a run either. Runs that call it, and began before it
# was deleted, have a day to do so.
DELETED = f"""
    SELECT id FROM graphs AS gone WHERE deleted_at < now() - interval '1 day' AND included_in IS NULL AND NOT EXISTS (
        SELECT FROM runs WHERE graph_id = gone.id
    ) AND NOT EXISTS (
        SELECT FROM graphs AS included WHERE included_in = gone.id AND EXISTS (
            SELECT FROM runs WHERE graph_id = included.id
        )
    ) LIMIT {AT_ONCE}
"""

DELETE_GRAPHS = """
    WITH doomed AS (
        DELETE FROM graphs WHERE id = ANY($1::uuid[]) OR included_in = ANY($1::uuid[]) RETURNING id
    ), settings AS (
        DELETE FROM graph_settings WHERE graph_id IN (SELECT id FROM doomed)
    )
    DELETE FROM kept_values WHERE scope IN (SELECT id::text FROM doomed)
"""


async def delete_old(pool: Pool, days: int) -> int:
    """Delete the runs that ended more than `days` days ago. Returns how many."""
    total = 0
    while deleted := await _delete(pool, await _ids(pool, OLD, days)):
        total += deleted
    return total


async def delete_surplus(pool: Pool, count: int) -> int:
    """Delete all but the `count` newest ended runs of each graph. Returns how many."""
    total = 0
    for graph_id in await _ids(pool, "SELECT DISTINCT id FROM graphs"):
        while deleted := await _delete(pool, await _ids(pool, BEYOND, graph_id, count)):
            total += deleted
    return total


async def delete_graphs(pool: Pool) -> int:
    """Delete the graphs that somebody deleted, with their settings and the values they kept. Returns how many."""
    total = 0
    with suppress(ForeignKeyViolationError):  # one has got a run after all: later, then
        while doomed := list(dict.fromkeys(await _ids(pool, DELETED))):
            await pool.execute(DELETE_GRAPHS, doomed)
            total += len(doomed)
    return total


async def delete_run(connection: Queryable, run_id: UUID) -> bool:
    """Delete an ended run with all below it. False if it, one of those, or the one that began it has not ended."""
    return await _delete(connection, [run_id]) > 0


# Ids go back and forth, for from a number of rows that it only guesses PostgreSQL may choose to read whole tables.
async def _delete(connection: Queryable, run_ids: Sequence[UUID]) -> int:
    if not run_ids:
        return 0
    doomed = await _ids(connection, WITH_THOSE_BELOW, run_ids)
    await connection.execute(DELETE, doomed)
    return len(doomed)


async def _ids(connection: Queryable, query: str, *arguments: object) -> list[UUID]:
    return [row["id"] for row in await connection.fetch(query, *arguments)]
