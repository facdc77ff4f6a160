"""Webhooks: whom to tell of what happens to runs. What they are told is written by a trigger (migration 0008), with the
event itself, and delivered by way of deliveries.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, Unpack
from uuid import UUID, uuid5

from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total

# Channel of NOTIFY: some delivery is due. A hint to look.
DUE = "webhook_due"

# Seconds that the secret which was replaced goes on signing.
BOTH_SECRETS_FOR = 24 * 3600.0

SWITCHED_OFF = "The webhook was switched off."


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """`events` are the types it is told of, `graph_id` the only graph whose runs it is told of, if it is not None.
    `disabled_reason` says why it was switched off by itself; `failing_since` is set while no attempt succeeds."""

    id: UUID
    url: str
    events: list[str]
    graph_id: UUID | None
    active: bool
    description: str
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime


# A webhook of one run is nobody else's affair.
LISTED = "user_id = $1 AND run_id IS NULL"
_COLUMNS = ", ".join(StoredWebhook.__slots__)


async def insert(
    connection: Queryable,
    id: UUID,
    user_id: UUID,
    url: str,
    events: Sequence[str],
    secret: bytes,
    *,
    graph_id: UUID | None = None,
    active: bool = True,
    description: str = "",
) -> StoredWebhook:
    """`secret` is sealed for the webhook (`sealed_for`)."""
    row = await connection.fetchrow(
        f"""
        INSERT INTO webhooks (id, user_id, url, events, secret, graph_id, active, description, lane)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $1) RETURNING {_COLUMNS}
        """,
        id,
        user_id,
        url,
        events,
        secret,
        graph_id,
        active,
        description,
    )
    assert row is not None
    return _webhook(row)


async def insert_for_run(
    connection: Queryable, id: UUID, user_id: UUID, run_id: UUID, url: str, events: Sequence[str], secret: bytes
) -> None:
    """A webhook that is told of one run and is not listed: in the transaction that starts the run.

    Those of one user at one address are attempted a few at a time, as if they were one webhook.
    """
    await connection.execute(
        "INSERT INTO webhooks (id, user_id, run_id, url, events, secret, lane) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id,
        user_id,
        run_id,
        url,
        events,
        secret,
        uuid5(user_id, url),
    )


def sealed_for(id: UUID) -> str:
    """What the secret of a webhook is sealed for."""
    return f"webhook {id}"


async def get(connection: Queryable, user_id: UUID, id: UUID) -> StoredWebhook | None:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM webhooks WHERE {LISTED} AND id = $2", user_id, id)
    return _webhook(row) if row else None


async def page(connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None) -> list[StoredWebhook]:
    """Webhooks, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM webhooks WHERE {LISTED} AND (created_at, id) < ($2, $3)"
        f" ORDER BY created_at DESC, id DESC LIMIT {limit:d}",
        user_id,
        *(before or START),
    )
    return [_webhook(row) for row in rows]


async def count(connection: Queryable, user_id: UUID) -> int:
    return await total(connection, f"SELECT FROM webhooks WHERE {LISTED}", [user_id])


class Changes(TypedDict, total=False):
    """What may be changed of a webhook."""

    url: str
    events: Sequence[str]
    active: bool
    description: str


async def change(connection: Queryable, user_id: UUID, id: UUID, **changes: Unpack[Changes]) -> StoredWebhook | None:
    """Whoever switches a webhook on forgets why it was off; one that is switched off is told nothing more."""
    row = await connection.fetchrow(
        f"""
        WITH changed AS (
            UPDATE webhooks SET
                url = coalesce($3, url), events = coalesce($4, events), active = coalesce($5, active),
                description = coalesce($6, description),
                disabled_reason = CASE WHEN $5 THEN NULL ELSE disabled_reason END,
                failing_since = CASE WHEN $5 THEN NULL ELSE failing_since END
            WHERE {LISTED} AND id = $2 RETURNING {_COLUMNS}
        ), failed AS (
            UPDATE webhook_deliveries SET status = 'FAILED', next_attempt_at = NULL, error = $7
            WHERE id IN ({waiting_of("changed")} AND NOT active FOR UPDATE OF waiting SKIP LOCKED)
        )
        SELECT * FROM changed
        """,
        user_id,
        id,
        changes.get("url"),
        changes.get("events"),
        changes.get("active"),
        changes.get("description"),
        SWITCHED_OFF,
    )
    return _webhook(row) if row else None


async def replace_secret(connection: Queryable, user_id: UUID, id: UUID, secret: bytes) -> StoredWebhook | None:
    """The secret until now goes on signing beside the new one, for a while."""
    row = await connection.fetchrow(
        f"""
        UPDATE webhooks SET
            secret = $3, previous_secret = secret, previous_until = now() + make_interval(secs => $4)
        WHERE {LISTED} AND id = $2 RETURNING {_COLUMNS}
        """,
        user_id,
        id,
        secret,
        BOTH_SECRETS_FOR,
    )
    return _webhook(row) if row else None


async def delete(connection: Queryable, user_id: UUID, id: UUID) -> bool:
    """It goes with its deliveries. False if there is none.

    One whose result is just written down stays behind, without anybody to be seen by.
    """
    deleted = await connection.fetchval(
        f"""
        WITH webhook AS (
            DELETE FROM webhooks WHERE {LISTED} AND id = $2 RETURNING id
        ), deliveries AS (
            DELETE FROM webhook_deliveries WHERE id IN (
                SELECT waiting.id FROM webhook_deliveries AS waiting JOIN webhook ON webhook_id = webhook.id
                FOR UPDATE OF waiting SKIP LOCKED
            )
        )
        SELECT id FROM webhook
        """,
        user_id,
        id,
    )
    return deleted is not None


def waiting_of(webhook: str) -> str:
    """A query for the deliveries of a webhook, given as a table of its id, that are not over.

    Whoever locks them has locked the webhook before, and has to skip what is locked: for that a result is just written
    down, which locks them the other way round. What is skipped fails as soon as it is claimed again.
    """
    return (
        f"SELECT waiting.id FROM webhook_deliveries AS waiting JOIN {webhook} ON webhook_id = {webhook}.id"
        " WHERE next_attempt_at IS NOT NULL"
    )


def _webhook(row: Record) -> StoredWebhook:
    return StoredWebhook(*row)
