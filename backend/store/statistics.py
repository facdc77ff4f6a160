"""Figures over many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from backend.store.connection import Queryable
from backend.store.runs import COLUMNS, StoredRun, run_of


async def unfinished_runs(connection: Queryable) -> dict[str, int]:
    """How many runs are QUEUED, RUNNING and in REVIEW. Ended runs are not counted: there may be millions."""
    row = await connection.fetchrow(
        # By the three indexes that together have all that is queued.
        "SELECT (SELECT count(*) FROM runs WHERE status = 'QUEUED' AND NOT paused AND NOT limited)"
        " + (SELECT count(*) FROM runs WHERE status = 'QUEUED' AND NOT paused AND limited)"
        " + (SELECT count(*) FROM runs WHERE status = 'QUEUED' AND paused) AS queued,"
        " (SELECT count(*) FROM runs WHERE status = 'RUNNING') AS running,"
        " (SELECT count(*) FROM runs WHERE status = 'REVIEW') AS review"
    )
    assert row is not None
    return {"QUEUED": row["queued"], "RUNNING": row["running"], "REVIEW": row["review"]}


async def oldest_queued(connection: Queryable) -> float:
    """The seconds since the oldest run that could begin was asked for; 0 if there is none."""
    return await connection.fetchval(
        # OFFSET 0, or PostgreSQL may look for it among all runs from the oldest on.
        "SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8"
        " FROM (SELECT created_at FROM runs WHERE status = 'QUEUED' AND NOT paused AND NOT limited OFFSET 0) AS queued"
    )


# As text, for it is the first key: PostgreSQL's own look into JSON fails on a \\u0000 in any of the values.
_COUNTS = """
    WITH RECURSIVE tree AS (
        SELECT id AS top, id, node_runs, ended_at FROM runs WHERE id = ANY($1::uuid[])
        UNION ALL
        SELECT top, runs.id, runs.node_runs, runs.ended_at FROM runs JOIN tree ON parent_run_id = tree.id
    )
    SELECT top, sum(CASE
        WHEN ended_at IS NOT NULL AND node_runs IS NOT NULL THEN node_runs
        ELSE (
            SELECT count(DISTINCT substring(data::text FROM '"node_run":([0-9]+)'))
            FROM run_events WHERE run_id = tree.id AND type = 'node.started'
        )
    END) AS count
    FROM tree GROUP BY top
"""


async def node_run_counts(connection: Queryable, run_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many node runs each of these runs has begun so far, with those of the runs below it."""
    return {row["top"]: int(row["count"]) for row in await connection.fetch(_COUNTS, run_ids)}


async def get_counted(connection: Queryable, run_id: UUID) -> tuple[StoredRun, int] | None:
    """A run, and how many node runs it has begun so far, with those of the runs below it."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS}, count FROM runs JOIN ({_COUNTS}) AS counts ON top = id", [run_id]
    )
    return (run_of(row), int(row["count"])) if row else None
