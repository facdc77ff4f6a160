"""Retention: which ended runs are kept, by their age and by their number; the others go with all that is theirs.

A run that a node of another began goes with that one and is not counted. No run goes before all below it have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from backend.store.connection import Pool, Queryable

# Runs, not counting those below them, that are deleted in one transaction.
AT_ONCE = 200

NOTHING_BELOW = "NOT EXISTS (SELECT FROM runs WHERE parent_run_id = ended.id AND ended_at IS NULL)"

# A run whose parent is gone is on its own.
OLD = f"""
    SELECT id FROM runs AS ended WHERE ended_at < now() - make_interval(days => $1) AND {NOTHING_BELOW}
        AND (parent_run_id IS NULL OR NOT EXISTS (SELECT FROM runs WHERE id = ended.parent_run_id))
    LIMIT {AT_ONCE}
"""

BEYOND = f"""
    SELECT id FROM (
        SELECT id FROM runs WHERE graph_id = $1 AND parent_run_id IS NULL AND ended_at IS NOT NULL
        ORDER BY created_at DESC, id DESC OFFSET $2
    ) AS ended WHERE {NOTHING_BELOW} LIMIT {AT_ONCE}
"""

WITH_THOSE_BELOW = """
    WITH RECURSIVE tree AS (
        SELECT id AS top, id, ended_at FROM runs WHERE id = ANY($1::uuid[])
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


async def delete_run(connection: Queryable, run_id: UUID) -> bool:
    """Delete an ended run with all below it. False if it, or one of those, has not ended."""
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
