"""API keys: of each only a hash is stored, so what is in the database opens nothing.

A key is 256 random bits, which nobody can guess from a fast hash either.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from asyncpg import Record

from backend.settings import KEY_PREFIX
from backend.store.connection import Pool, Queryable
from backend.store.identifiers import new_id
from backend.store.lists import START, Place, total
from backend.store.users import DEFAULT_USER

# Channel of NOTIFY: the id of a key that was changed or revoked.
CHANGED = "api_key_changed"

# Characters of a key by which people tell it from others, at its beginning and its end.
SHOWN = 8

# The advisory lock under which the first key is made, so that processes that start together make one.
FIRST_KEY = 7_201_402


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is known of a key. `requests_per_minute` is its own limit; None is that of the settings."""

    id: UUID
    user_id: UUID
    user_name: str
    name: str
    head: str
    tail: str
    permissions: list[str]
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


_COLUMNS = ("users.name" if name == "user_name" else f"key.{name}" for name in StoredKey.__slots__)
_KEYS = f"SELECT {', '.join(_COLUMNS)}"
_FROM = "FROM api_keys AS key JOIN users ON users.id = key.user_id"


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def insert(
    connection: Queryable,
    key: str,
    user_id: UUID,
    name: str,
    permissions: Collection[str],
    *,
    expires_at: datetime | None = None,
    requests_per_minute: int | None = None,
) -> StoredKey:
    row = await connection.fetchrow(
        f"""
        WITH key AS (
            INSERT INTO api_keys
                (id, user_id, name, head, tail, hash, permissions, expires_at, requests_per_minute)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *
        )
        {_KEYS} FROM key JOIN users ON users.id = key.user_id
        """,
        new_id(),
        user_id,
        name,
        key[:SHOWN],
        key[-SHOWN:],
        _hash(key),
        sorted(permissions),
        expires_at,
        requests_per_minute,
    )
    assert row is not None
    return _key(row)


async def by_secret(connection: Queryable, key: str) -> StoredKey | None:
    """The key, whether it is still good or not; that it is used is written down, about once a minute."""
    row = await connection.fetchrow(f"{_KEYS} {_FROM} WHERE key.hash = $1", _hash(key))
    if row is None:
        return None
    await connection.execute(
        "UPDATE api_keys SET last_used_at = now()"
        " WHERE id = $1 AND coalesce(last_used_at < now() - interval '1 minute', true)",
        row["id"],
    )
    return _key(row)


async def get(connection: Queryable, id: UUID) -> StoredKey | None:
    row = await connection.fetchrow(f"{_KEYS} {_FROM} WHERE key.id = $1", id)
    return _key(row) if row else None


async def page(connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None) -> list[StoredKey]:
    """The keys of a user, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"{_KEYS} {_FROM} WHERE key.user_id = $1 AND (key.created_at, key.id) < ($3, $4)"
        " ORDER BY key.created_at DESC, key.id DESC LIMIT $2",
        user_id,
        limit,
        *(before or START),
    )
    return [_key(row) for row in rows]


async def count(connection: Queryable, user_id: UUID) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, "SELECT id FROM api_keys WHERE user_id = $1", (user_id,))


async def change(
    connection: Queryable, id: UUID, name: str, permissions: Collection[str], expires_at: datetime | None
) -> None:
    await connection.execute(
        "UPDATE api_keys SET name = $2, permissions = $3, expires_at = $4 WHERE id = $1",
        id,
        name,
        sorted(permissions),
        expires_at,
    )
    await _tell(connection, id)


async def revoke(connection: Queryable, id: UUID, after: timedelta = timedelta()) -> None:
    """A key is good until it is revoked, now or `after` a while, for good. What is open with it ends."""
    await connection.execute(
        """
        UPDATE api_keys SET
            revoked_at = CASE WHEN $2 = interval '0' THEN now() END,
            expires_at = least(expires_at, now() + $2)
        WHERE id = $1 AND revoked_at IS NULL
        """,
        id,
        after,
    )
    await _tell(connection, id)


async def _tell(connection: Queryable, id: UUID) -> None:
    await connection.execute("SELECT pg_notify('api_key_changed', $1)", str(id))


async def make_first(pool: Pool, permissions: Collection[str], given: str | None = None) -> str | None:
    """Make the key that was `given`, or else a new one if none with ADMIN is good. Returns the new one."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", FIRST_KEY)
        query, argument = (THIS, _hash(given)) if given else (ADMINS, "ADMIN")
        if await connection.fetchval(f"SELECT EXISTS ({query})", argument):
            return None
        key = given or new_key()
        await insert(connection, key, DEFAULT_USER, "first admin key", permissions)
        return None if given else key


THIS = "SELECT FROM api_keys WHERE hash = $1"
ADMINS = """
    SELECT FROM api_keys
    WHERE $1 = ANY(permissions) AND revoked_at IS NULL AND coalesce(expires_at > now(), true)
"""


def _key(row: Record) -> StoredKey:
    return StoredKey(*row)
