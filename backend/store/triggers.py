"""Triggers: addresses at which what is delivered begins a run; and the last deliveries to each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.identifiers import new_id
from backend.store.lists import START, Place, total

# Deliveries of a trigger that can be looked at.
SHOWN = 100
# How long a delivery is known again by its id.
REMEMBERED = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class StoredTrigger:
    """What begins when something is delivered. `graph_version` null is the active one. `credentials` are
    references, by slot. `kind` is how deliveries are verified; `sealed` has the secret for that, and the part of the
    address that is one."""

    id: UUID
    user_id: UUID
    name: str
    graph_id: UUID
    graph_version: int | None
    inputs: dict[str, Any]
    credentials: dict[str, Any]
    payload_input: str | None
    kind: str
    sealed: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """What came to a trigger, and what became of it: STARTED, FAILED, REFUSED or PING. `size` is that of the body as it
    came; what is larger than is kept has an empty `body`."""

    id: UUID
    trigger_id: UUID
    key: str | None
    headers: dict[str, str]
    body: bytes
    size: int
    outcome: str
    run_id: UUID | None
    error: str | None
    replay_of: UUID | None
    created_at: datetime


_TRIGGER = ", ".join(StoredTrigger.__slots__)
_DELIVERY = ", ".join(StoredDelivery.__slots__)


class Given(TypedDict, total=False):
    """What may be said of a trigger, as StoredTrigger has it."""

    name: str
    graph_id: UUID
    graph_version: int | None
    inputs: dict[str, Any]
    credentials: dict[str, Any]
    payload_input: str | None
    kind: str
    sealed: bytes


async def insert(connection: Queryable, id: UUID, user_id: UUID, **given: Unpack[Given]) -> StoredTrigger:
    values = {"id": id, "user_id": user_id, **given}
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    row = await connection.fetchrow(
        f"INSERT INTO triggers ({', '.join(values)}) VALUES ({places}) RETURNING {_TRIGGER}", *values.values()
    )
    assert row is not None
    return StoredTrigger(*row)


async def change(connection: Queryable, id: UUID, user_id: UUID, **given: Unpack[Given]) -> StoredTrigger | None:
    sets = ", ".join(["id = id", *(f"{name} = ${number}" for number, name in enumerate(given, 3))])
    query = f"UPDATE triggers SET {sets} WHERE id = $1 AND user_id = $2 RETURNING {_TRIGGER}"
    row = await connection.fetchrow(query, id, user_id, *given.values())
    return StoredTrigger(*row) if row else None


async def get(connection: Queryable, id: UUID, user_id: UUID) -> StoredTrigger | None:
    row = await connection.fetchrow(f"SELECT {_TRIGGER} FROM triggers WHERE id = $1 AND user_id = $2", id, user_id)
    return StoredTrigger(*row) if row else None


async def find(connection: Queryable, id: UUID, *, lock: bool = False) -> StoredTrigger | None:
    """A trigger of any user. With `lock` nothing else is delivered to it until the end of the transaction."""
    locked = " FOR NO KEY UPDATE" if lock else ""
    row = await connection.fetchrow(f"SELECT {_TRIGGER} FROM triggers WHERE id = $1{locked}", id)
    return StoredTrigger(*row) if row else None


async def delete(connection: Queryable, id: UUID, user_id: UUID) -> bool:
    """Whether there was one to delete."""
    query = "DELETE FROM triggers WHERE id = $1 AND user_id = $2 RETURNING id"
    return await connection.fetchval(query, id, user_id) is not None


async def page(
    connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None, graph_id: UUID | None = None
) -> list[StoredTrigger]:
    """Triggers, newest first, from just after the row at `before`."""
    query, arguments = _listing(_TRIGGER, user_id, before or START, graph_id)
    return [StoredTrigger(*row) for row in await connection.fetch(f"{query} LIMIT {limit:d}", *arguments)]


async def count(connection: Queryable, user_id: UUID, graph_id: UUID | None = None) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, *_listing("id", user_id, START, graph_id))


def _listing(columns: str, user_id: UUID, before: Place, graph_id: UUID | None) -> tuple[str, list[object]]:
    arguments: list[object] = [*before, user_id]
    of_graph = ""
    if graph_id:
        arguments.append(graph_id)
        of_graph = " AND graph_id = $4"
    where = f"(created_at, id) < ($1, $2) AND user_id = $3{of_graph}"
    return f"SELECT {columns} FROM triggers WHERE {where} ORDER BY created_at DESC, id DESC", arguments


async def seen(connection: Queryable, trigger_id: UUID, key: str, within: timedelta) -> StoredDelivery | None:
    """The delivery with this key that began a run."""
    row = await connection.fetchrow(
        f"""
        SELECT {_DELIVERY} FROM trigger_deliveries
        WHERE trigger_id = $1 AND key = $2 AND outcome = 'STARTED' AND created_at > now() - $3::interval
        ORDER BY created_at DESC LIMIT 1
        """,
        trigger_id,
        key,
        within,
    )
    return _delivery(row) if row else None


class More(TypedDict, total=False):
    """What else there is to say of a delivery, as StoredDelivery has it."""

    key: str | None
    run_id: UUID | None
    error: str | None
    replay_of: UUID | None


async def insert_delivery(
    connection: Queryable,
    trigger_id: UUID,
    headers: dict[str, str],
    body: bytes,
    size: int,
    outcome: str,
    **more: Unpack[More],
) -> UUID:
    """Write a delivery down, and let go of those that are too many: what they were, and later that they were."""
    id = new_id()
    await connection.execute(
        """
        INSERT INTO trigger_deliveries (id, trigger_id, headers, body, size, outcome, key, run_id, error, replay_of)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        """,
        id,
        trigger_id,
        headers,
        body,
        size,
        outcome,
        more.get("key"),
        more.get("run_id"),
        more.get("error"),
        more.get("replay_of"),
    )
    # Spelt out: of a parameter it is not seen beforehand that next to nothing is older.
    await connection.execute(
        f"""
        WITH last AS (
            SELECT created_at, id FROM trigger_deliveries WHERE trigger_id = $1 AND shown
            ORDER BY created_at DESC, id DESC OFFSET $2 LIMIT 1
        ), forgotten AS (
            DELETE FROM trigger_deliveries
            WHERE trigger_id = $1 AND NOT shown AND created_at < now() - interval '{REMEMBERED.days} days'
        )
        UPDATE trigger_deliveries SET shown = false, headers = '{{}}', body = '' FROM last
        WHERE trigger_id = $1 AND shown
            AND (trigger_deliveries.created_at, trigger_deliveries.id) <= (last.created_at, last.id)
        """,
        trigger_id,
        SHOWN,
    )
    return id


async def deliveries(
    connection: Queryable, trigger_id: UUID, *, limit: int, before: Place | None = None
) -> list[StoredDelivery]:
    """The last ones, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"""
        SELECT {_DELIVERY} FROM trigger_deliveries
        WHERE trigger_id = $1 AND shown AND (created_at, id) < ($2, $3)
        ORDER BY created_at DESC, id DESC LIMIT {limit:d}
        """,
        trigger_id,
        *(before or START),
    )
    return [_delivery(row) for row in rows]


async def count_deliveries(connection: Queryable, trigger_id: UUID) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM trigger_deliveries WHERE trigger_id = $1 AND shown", trigger_id
    )


async def get_delivery(connection: Queryable, trigger_id: UUID, id: UUID) -> StoredDelivery | None:
    row = await connection.fetchrow(
        f"SELECT {_DELIVERY} FROM trigger_deliveries WHERE id = $2 AND trigger_id = $1 AND shown", trigger_id, id
    )
    return _delivery(row) if row else None


def _delivery(row: Record) -> StoredDelivery:
    return StoredDelivery(*row)
