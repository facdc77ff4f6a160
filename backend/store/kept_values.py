"""Values that agents keep beyond a run: by scope (the id of an agent, or of the user of them all) and key."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from backend.store.connection import Queryable


async def keep(connection: Queryable, run_id: UUID, node_run: int, scope: str, key: str, value: Any) -> None:
    """Keep a value, in place of an earlier one. A second call for the same node run changes nothing."""
    await connection.execute(
        """
        WITH first AS (
            INSERT INTO kept_by (run_id, node_run) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING run_id
        )
        INSERT INTO kept_values (scope, key, value) SELECT $3, $4, $5 FROM first
        ON CONFLICT (scope, key) DO UPDATE SET value = excluded.value
        """,
        run_id,
        node_run,
        scope,
        key,
        value,
    )


async def recall(connection: Queryable, scope: str, key: str) -> Any:
    """The value kept; None if there is none."""
    return await connection.fetchval("SELECT value FROM kept_values WHERE scope = $1 AND key = $2", scope, key)
