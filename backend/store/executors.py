"""Which executors are alive: each writes a heartbeat, by the clock of the database."""

from __future__ import annotations

from uuid import UUID

from backend.store.connection import Queryable

# Seconds. An executor that was silent for so long has lost its runs; the fence makes a mistake harmless.
DEAD_AFTER = 2.5


async def beat(connection: Queryable, id: UUID, name: str) -> None:
    """Say that this executor is alive. `name` is for people: its host and pid."""
    await connection.execute(
        "INSERT INTO executors (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()", id, name
    )


async def leave(connection: Queryable, id: UUID) -> None:
    await connection.execute("DELETE FROM executors WHERE id = $1", id)


async def count_alive(connection: Queryable) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM executors WHERE heartbeat_at > now() - make_interval(secs => $1)", DEAD_AFTER
    )


async def forget_dead(connection: Queryable) -> None:
    """Drop the executors that have been silent for far too long."""
    await connection.execute(
        "DELETE FROM executors WHERE heartbeat_at < now() - make_interval(secs => $1)", DEAD_AFTER * 10
    )
