"""Keys that clients give to a request, so that to ask again is not to begin another run."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backend.store.connection import Queryable

# As PostgreSQL writes it.
KEPT_FOR = "24 hours"


@dataclass(frozen=True, slots=True)
class Used:
    """What a key was used for: a hash of the request, and the run that it began."""

    request: bytes
    run_id: UUID


async def get(connection: Queryable, user_id: UUID, key: str) -> Used | None:
    """What a key was used for."""
    row = await connection.fetchrow(
        f"""
        SELECT request, run_id FROM idempotency_keys
        WHERE user_id = $1 AND key = $2 AND created_at >= now() - interval '{KEPT_FOR}'
        """,
        user_id,
        key,
    )
    return Used(row["request"], row["run_id"]) if row else None


async def take(connection: Queryable, user_id: UUID, key: str, use: Used) -> Used | None:
    """Use a key. Returns what it was used for before, if it was; then nothing is changed.

    Whoever takes the same key at the same time waits until the transaction ends, and if it fails may have the key.
    """
    taken = await connection.fetchval(
        f"""
        INSERT INTO idempotency_keys AS taken (user_id, key, request, run_id) VALUES ($1, $2, $3, $4)
        ON CONFLICT (user_id, key) DO UPDATE
            SET request = excluded.request, run_id = excluded.run_id, created_at = excluded.created_at
            WHERE taken.created_at < now() - interval '{KEPT_FOR}'
        RETURNING true
        """,
        user_id,
        key,
        use.request,
        use.run_id,
    )
    return None if taken else await get(connection, user_id, key)


async def delete_old(connection: Queryable) -> None:
    """Delete the keys whose time is over."""
    await connection.execute(f"DELETE FROM idempotency_keys WHERE created_at < now() - interval '{KEPT_FOR}'")
