"""Figures over many runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from backend.store.connection import Queryable


async def unfinished_runs(connection: Queryable) -> dict[str, int]:
    """How many runs are QUEUED, RUNNING and in REVIEW. Ended runs are not counted: there may be millions."""
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM runs WHERE status = 'QUEUED') AS queued,"
        " (SELECT count(*) FROM runs WHERE status = 'RUNNING') AS running,"
        " (SELECT count(*) FROM runs WHERE status = 'REVIEW') AS review"
    )
    assert row is not None
    return {"QUEUED": row["queued"], "RUNNING": row["running"], "REVIEW": row["review"]}


async def oldest_queued(connection: Queryable) -> float:
    """The seconds since the oldest run in the queue was asked for; 0 if the queue is empty."""
    return await connection.fetchval(
        "SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM runs WHERE status = 'QUEUED'"
    )


async def node_run_counts(connection: Queryable, run_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many node runs each of these runs has begun so far, with those of the runs below it."""
    # As text, for it is the first key: PostgreSQL's own look into JSON fails on a \\u0000 in any of the values.
    rows = await connection.fetch(
        """
        WITH RECURSIVE tree AS (
            SELECT id AS top, id FROM unnest($1::uuid[]) AS id
            UNION ALL
            SELECT top, runs.id FROM runs JOIN tree ON parent_run_id = tree.id
        )
        SELECT top, count(DISTINCT (run_id, substring(data::text FROM '"node_run":([0-9]+)'))) AS count
        FROM tree JOIN run_events ON run_id = tree.id WHERE type = 'node.started' GROUP BY top
        """,
        run_ids,
    )
    return {row["top"]: row["count"] for row in rows}
