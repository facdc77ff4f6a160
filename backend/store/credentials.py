"""Credentials: what is told of each, and its secret, which is stored sealed and read only to be used."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total

# Those of one user and provider that are looked at to find which fit.
MOST = 1000


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """All of a credential that anybody is told. `host` is set for one that is only for that host."""

    id: UUID
    provider: str
    type: str
    title: str | None
    username: str | None
    host: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


_COLUMNS = ", ".join(StoredCredential.__slots__)


def sealed_for(id: UUID) -> str:
    """What the secret of a credential is sealed for."""
    return f"credential {id}"


async def insert(connection: Queryable, user_id: UUID, credential: StoredCredential, sealed: bytes) -> None:
    await connection.execute(
        f"INSERT INTO credentials (user_id, sealed, {_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        user_id,
        sealed,
        *(getattr(credential, name) for name in StoredCredential.__slots__),
    )


async def get(connection: Queryable, user_id: UUID, id: UUID) -> StoredCredential | None:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM credentials WHERE user_id = $1 AND id = $2", user_id, id)
    return StoredCredential(*row) if row else None


async def page(
    connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None, provider: str | None = None
) -> list[StoredCredential]:
    """Credentials, newest first, from just after the row at `before`."""
    query, arguments = _listing(_COLUMNS, user_id, before or START, provider)
    return [StoredCredential(*row) for row in await connection.fetch(f"{query} LIMIT {limit:d}", *arguments)]


async def count(connection: Queryable, user_id: UUID, provider: str | None = None) -> int:
    """How many there are: exactly, if they are few."""
    query, arguments = _listing("id", user_id, START, provider)
    return await total(connection, query, arguments)


def _listing(columns: str, user_id: UUID, before: Place, provider: str | None) -> tuple[str, list[object]]:
    arguments: list[object] = [user_id, *before, *([] if provider is None else [provider])]
    wanted = "" if provider is None else " AND provider = $4"
    where = f"user_id = $1 AND (created_at, id) < ($2, $3){wanted}"
    return f"SELECT {columns} FROM credentials WHERE {where} ORDER BY created_at DESC, id DESC", arguments


async def candidates(
    connection: Queryable, user_id: UUID, ids: Collection[UUID], providers: Collection[str]
) -> list[StoredCredential]:
    """Those with one of these ids, and the newest of each of these providers."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM credentials WHERE user_id = $1 AND id = ANY($2::uuid[])
        UNION
        SELECT newest.* FROM unnest($3::text[]) AS wanted, LATERAL (
            SELECT {_COLUMNS} FROM credentials WHERE user_id = $1 AND provider = wanted
            ORDER BY created_at DESC, id DESC LIMIT {MOST}
        ) AS newest
        ORDER BY created_at DESC, id DESC
        """,
        user_id,
        list(ids),
        list(providers),
    )
    return [StoredCredential(*row) for row in rows]


async def rename(connection: Queryable, user_id: UUID, id: UUID, title: str | None) -> StoredCredential | None:
    row = await connection.fetchrow(
        f"UPDATE credentials SET title = $3 WHERE user_id = $1 AND id = $2 RETURNING {_COLUMNS}", user_id, id, title
    )
    return StoredCredential(*row) if row else None


async def delete(connection: Queryable, user_id: UUID, id: UUID) -> bool:
    """False if there is none."""
    return bool(
        await connection.fetchval("DELETE FROM credentials WHERE user_id = $1 AND id = $2 RETURNING id", user_id, id)
    )


async def use(connection: Queryable, user_id: UUID, id: UUID) -> tuple[StoredCredential, bytes] | None:
    """A credential with its sealed secret, which is noted as used: about once a minute, for many may use it at once."""
    row = await connection.fetchrow(
        f"""
        WITH noted AS (
            UPDATE credentials SET last_used_at = now()
            WHERE user_id = $1 AND id = (
                SELECT id FROM credentials
                WHERE user_id = $1 AND id = $2 AND (last_used_at < now() - interval '1 minute') IS NOT FALSE
                FOR NO KEY UPDATE SKIP LOCKED
            )
        )
        SELECT sealed, {_COLUMNS} FROM credentials WHERE user_id = $1 AND id = $2
        """,
        user_id,
        id,
    )
    return (StoredCredential(*row[1:]), row["sealed"]) if row else None
