"""Which executors are alive: each writes a heartbeat, and who watches sees whether it changes, whatever clocks say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from backend.store.connection import Queryable

# Seconds. An executor that was silent for so long has lost its runs; the fence makes a mistake harmless.
DEAD_AFTER = 2.5


async def beat(connection: Queryable, id: UUID, name: str) -> datetime:
    """Say that this executor is alive; returns the time. `name` is for people: its host and pid."""
    return await connection.fetchval(
        """
        INSERT INTO executors (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
        RETURNING heartbeat_at
        """,
        id,
        name,
    )


async def heartbeats(connection: Queryable) -> dict[UUID, datetime]:
    """The last heartbeat of each executor."""
    return {row["id"]: row["heartbeat_at"] for row in await connection.fetch("SELECT id, heartbeat_at FROM executors")}


async def leave(connection: Queryable, id: UUID) -> None:
    await connection.execute("DELETE FROM executors WHERE id = $1", id)


async def count_alive(connection: Queryable) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM executors WHERE heartbeat_at > now() - make_interval(secs => $1)", DEAD_AFTER
    )


async def forget(connection: Queryable, silent: Mapping[UUID, datetime]) -> None:
    """Take these executors for dead, unless they have written another heartbeat than this."""
    await connection.execute(
        "DELETE FROM executors USING unnest($1::uuid[], $2::timestamptz[]) AS silent (id, heartbeat_at)"
        " WHERE executors.id = silent.id AND executors.heartbeat_at = silent.heartbeat_at",
        list(silent),
        list(silent.values()),
    )
