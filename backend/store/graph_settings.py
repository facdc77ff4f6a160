"""What may be set for a graph in all its versions."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backend.store.connection import Queryable
from backend.store.runs import OPEN


@dataclass(frozen=True, slots=True)
class StoredSettings:
    """`max_concurrent_runs` may be at work at a time; None is any number. Without `human_in_the_loop_safe_mode` reviews
    are approved by themselves; `sensitive_action_safe_mode` is kept for clients, as no block here is sensitive."""

    max_concurrent_runs: int | None = None
    human_in_the_loop_safe_mode: bool = True
    sensitive_action_safe_mode: bool = False


async def get(connection: Queryable, graph_id: UUID) -> StoredSettings:
    columns = ", ".join(StoredSettings.__slots__)
    row = await connection.fetchrow(f"SELECT {columns} FROM graph_settings WHERE graph_id = $1", graph_id)
    return StoredSettings(*row) if row else StoredSettings()


async def set_safe_modes(connection: Queryable, graph_id: UUID, wanted: StoredSettings) -> None:
    """From the next review on; those that wait go on waiting."""
    await connection.execute(
        """
        INSERT INTO graph_settings (graph_id, human_in_the_loop_safe_mode, sensitive_action_safe_mode)
        VALUES ($1, $2, $3) ON CONFLICT (graph_id) DO UPDATE SET
            human_in_the_loop_safe_mode = excluded.human_in_the_loop_safe_mode,
            sensitive_action_safe_mode = excluded.sensitive_action_safe_mode
        """,
        graph_id,
        wanted.human_in_the_loop_safe_mode,
        wanted.sensitive_action_safe_mode,
    )


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
