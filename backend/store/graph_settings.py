"""What may be set for a graph in all its versions."""

from __future__ import annotations

from uuid import UUID

from backend.store.connection import Queryable
from backend.store.runs import OPEN


async def max_concurrent_runs(connection: Queryable, graph_id: UUID) -> int | None:
    """How many runs of the graph may be at work at a time; None is any number."""
    return await connection.fetchval("SELECT max_concurrent_runs FROM graph_settings WHERE graph_id = $1", graph_id)


async def limit_runs(connection: Queryable, graph_id: UUID, at_most: int | None) -> None:
    """Set it, for the runs that are queued already, too. In a transaction."""
    await connection.execute(
        "INSERT INTO graph_settings (graph_id, max_concurrent_runs) VALUES ($1, $2)"
        " ON CONFLICT (graph_id) DO UPDATE SET max_concurrent_runs = excluded.max_concurrent_runs",
        graph_id,
        at_most,
    )
    await connection.execute(
        f"""
        UPDATE runs SET limited = $2 OR concurrency_key IS NOT NULL
        WHERE id = ANY(ARRAY({OPEN})) AND graph_id = $1 AND parent_run_id IS NULL
            AND limited <> ($2 OR concurrency_key IS NOT NULL)
        """,
        graph_id,
        at_most is not None,
    )
    await connection.execute("SELECT pg_notify('run_queued', '')")
