"""What webhooks are told: each delivery is attempted until it succeeds, or for about three days.

A notifier claims what is due for a time, its lease, by moving `next_attempt_at` to the end of it: what a notifier that
was killed had claimed is due again by then. The result of an attempt counts only if the lease is still the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Pool, Queryable
from backend.store.lists import START, Place, total
from backend.store.webhooks import DUE, SWITCHED_OFF, waiting_of

# Seconds that a notifier has for an attempt and to write its result down.
LEASE = 60.0

# Bytes of JSON of what a run put out, or of what is to be decided, that go along; who wants more asks for it.
LARGEST = 64 * 1024

# Of the test that a user asks for; all others are of runs.
TEST = "webhook.test"

# Days that a delivery is kept, and how many are deleted at once.
KEPT_DAYS = 30
DELETED_AT_ONCE = 10_000

GONE = "The receiver answered 410 Gone: it wants to be told nothing any more."
GIVEN_UP = "Every attempt has failed for three days."
FAILED_FOR_LONG = "AND failing_since < now() - interval '3 days'"


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """`status` is PENDING, DELIVERED or FAILED. The rest is of the last attempt."""

    id: UUID
    webhook_id: UUID
    event_type: str
    run_id: UUID | None
    status: str
    attempts: int
    next_attempt_at: datetime | None
    last_attempt_at: datetime | None
    duration_ms: int | None
    response_status: int | None
    response_excerpt: str | None
    error: str | None
    created_at: datetime


_COLUMNS = ", ".join(StoredDelivery.__slots__)


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is claimed, with all that is needed to attempt it. `event` is the data of the event it tells of;
    of a review there is `review` instead. Both are None if the run is deleted, or the delivery is a test."""

    id: UUID
    webhook_id: UUID
    lane: UUID
    event_type: str
    run_id: UUID | None
    attempts: int
    lease: datetime
    active: bool
    url: str
    secret: bytes
    previous_secret: bytes | None
    happened_at: datetime
    event: dict[str, Any] | None
    review: dict[str, Any] | None
    graph_id: UUID | None
    graph_version: int | None
    parent_run_id: UUID | None
    started_at: datetime | None
    ended_at: datetime | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt came to. `again_in` are the seconds to the next one if it failed; None if there is to be none.
    `gone` tells that the receiver wants to be told nothing any more."""

    delivered: bool
    duration_ms: int
    response_status: int | None = None
    response_excerpt: str | None = None
    error: str | None = None
    again_in: float | None = None
    gone: bool = False


class Wanted(TypedDict, total=False):
    """Which deliveries are looked for."""

    status: str | None


async def page(
    connection: Queryable, webhook_id: UUID, *, limit: int, before: Place | None = None, **wanted: Unpack[Wanted]
) -> list[StoredDelivery]:
    """Deliveries of a webhook, newest first, from just after the row at `before`."""
    query, arguments = _listing(_COLUMNS, webhook_id, before or START, **wanted)
    rows = await connection.fetch(f"{query} ORDER BY created_at DESC, id DESC LIMIT {limit:d}", *arguments)
    return [_delivery(row) for row in rows]


async def count(connection: Queryable, webhook_id: UUID, **wanted: Unpack[Wanted]) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, *_listing("id", webhook_id, START, **wanted))


def _listing(columns: str, webhook_id: UUID, before: Place, **wanted: Unpack[Wanted]) -> tuple[str, list[object]]:
    arguments: list[object] = [webhook_id, *before]
    query = f"SELECT {columns} FROM webhook_deliveries WHERE webhook_id = $1 AND (created_at, id) < ($2, $3)"
    if status := wanted.get("status"):
        arguments.append(status)
        query += " AND status = $4"
    return query, arguments


async def get(connection: Queryable, webhook_id: UUID, id: UUID) -> StoredDelivery | None:
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM webhook_deliveries WHERE webhook_id = $1 AND id = $2", webhook_id, id
    )
    return _delivery(row) if row else None


async def insert_test(connection: Queryable, id: UUID, user_id: UUID, webhook_id: UUID) -> StoredDelivery:
    """Queue a delivery that tells of nothing."""
    row = await connection.fetchrow(
        f"""
        WITH delivery AS (
            INSERT INTO webhook_deliveries (id, user_id, webhook_id, lane, event_type)
            VALUES ($1, $2, $3, $3, $4) RETURNING *
        )
        SELECT {_COLUMNS}, pg_notify($5, '') FROM delivery
        """,
        id,
        user_id,
        webhook_id,
        TEST,
        DUE,
    )
    assert row is not None
    return _delivery(row)


async def redeliver(connection: Queryable, webhook_id: UUID, id: UUID) -> StoredDelivery | None:
    """Begin a delivery anew, whatever has become of it; None if there is none."""
    row = await connection.fetchrow(
        f"""
        WITH delivery AS (
            UPDATE webhook_deliveries SET status = 'PENDING', attempts = 0, next_attempt_at = now()
            WHERE webhook_id = $1 AND id = $2 RETURNING *
        )
        SELECT {_COLUMNS}, pg_notify($3, '') FROM delivery
        """,
        webhook_id,
        id,
        DUE,
    )
    return _delivery(row) if row else None


# The lanes in which something waits, found by jumping from one to the next in the index: however much waits in one,
# none of it is looked at for the others.
LANES = """
    WITH RECURSIVE lanes AS (
        (SELECT lane FROM webhook_deliveries WHERE next_attempt_at IS NOT NULL ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT following.lane FROM lanes, LATERAL (
            SELECT lane FROM webhook_deliveries WHERE next_attempt_at IS NOT NULL AND lane > lanes.lane
            ORDER BY lane LIMIT 1
        ) AS following
    )
"""

# Of all that is found what has been due for longest comes first. `$1` and `$2` are the lanes in which this notifier is
# at work, and on how many deliveries.
CLAIM = f"""
    {LANES}, free AS (
        SELECT lane, $3::int - coalesce(busy.count, 0) AS places
        FROM lanes LEFT JOIN unnest($1::uuid[], $2::int[]) AS busy (lane, count) USING (lane)
    ), found AS (
        SELECT first.id FROM free, LATERAL (
            SELECT id, next_attempt_at FROM webhook_deliveries WHERE lane = free.lane AND next_attempt_at <= now()
            ORDER BY next_attempt_at LIMIT greatest(free.places, 0)
        ) AS first ORDER BY next_attempt_at LIMIT $4
    ), due AS (
        SELECT id FROM webhook_deliveries WHERE id = ANY (ARRAY(SELECT id FROM found)) AND next_attempt_at <= now()
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE webhook_deliveries SET next_attempt_at = now() + make_interval(secs => $5)
        FROM due WHERE webhook_deliveries.id = due.id RETURNING webhook_deliveries.*
    )
    SELECT
        claimed.id, webhook_id, claimed.lane, event_type, claimed.run_id, attempts, next_attempt_at,
        coalesce(active, false), coalesce(url, ''), coalesce(secret, ''),
        CASE WHEN previous_until > now() THEN previous_secret END,
        coalesce(run_events.created_at, claimed.created_at), run_events.data,
        CASE WHEN reviews.id IS NOT NULL THEN json_build_object(
            'node_exec_id', reviews.id, 'node_id', node_id, 'instructions', instructions, 'editable', editable,
            'payload', CASE WHEN octet_length(payload::text) <= $6 THEN payload END
        ) END,
        runs.graph_id, graph_version, parent_run_id, started_at, ended_at, request_id
    FROM claimed LEFT JOIN webhooks ON webhooks.id = webhook_id LEFT JOIN runs ON runs.id = claimed.run_id
        LEFT JOIN run_events ON run_events.run_id = claimed.run_id AND number = event_number
        LEFT JOIN reviews ON reviews.id = review_id
"""


async def claim(connection: Queryable, busy: Mapping[UUID, int], *, in_lane: int, at_most: int) -> list[Due]:
    """Take up to `at_most` deliveries that are due, so that no more than `in_lane` are at work in any lane."""
    rows = await connection.fetch(CLAIM, list(busy), list(busy.values()), in_lane, at_most, LEASE, LARGEST)
    return [Due(*row) for row in rows]


async def next_due(connection: Queryable) -> float | None:
    """The seconds to the next attempt that is not due yet, or to the end of a lease; None if there is none."""
    return await connection.fetchval(
        f"""
        {LANES} SELECT extract(epoch FROM min(first.next_attempt_at) - now())::float8 FROM lanes, LATERAL (
            SELECT next_attempt_at FROM webhook_deliveries WHERE lane = lanes.lane AND next_attempt_at > now()
            ORDER BY next_attempt_at LIMIT 1
        ) AS first
        """
    )


async def outputs(connection: Queryable, run_ids: Sequence[UUID]) -> dict[UUID, list[dict[str, Any] | None]]:
    """What each of these runs has put out: the data of its events in their order, and None where it gets too much."""
    rows = await connection.fetch(
        """
        SELECT run_id, CASE WHEN so_far <= $2 THEN data END AS data FROM (
            SELECT run_id, number, data, octet_length(data::text) AS size,
                sum(octet_length(data::text)) OVER (PARTITION BY run_id ORDER BY number) AS so_far
            FROM run_events WHERE run_id = ANY ($1::uuid[]) AND type = 'run.output'
        ) AS output WHERE so_far - size <= $2 ORDER BY number
        """,
        run_ids,
        LARGEST,
    )
    found: dict[UUID, list[dict[str, Any] | None]] = {run_id: [] for run_id in run_ids}
    for row in rows:
        found[row["run_id"]].append(row["data"])
    return found


async def record(pool: Pool, due: Due, result: Result) -> str | None:
    """Write down what came of an attempt, unless the lease is over and somebody else has it. Returns why the webhook
    was switched off, if it was."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            """
            WITH attempt AS (
                UPDATE webhook_deliveries SET
                    status = CASE WHEN $3 THEN 'DELIVERED' WHEN $4::float8 IS NULL THEN 'FAILED' ELSE 'PENDING' END,
                    next_attempt_at = CASE WHEN NOT $3 THEN now() + make_interval(secs => $4) END,
                    attempts = attempts + 1, last_attempt_at = now() - make_interval(secs => $5::int / 1000.0),
                    duration_ms = $5, response_status = $6, response_excerpt = $7, error = $8
                WHERE id = $1 AND next_attempt_at = $2 RETURNING webhook_id
            )
            UPDATE webhooks SET failing_since = CASE WHEN NOT $3 THEN now() END
            FROM attempt WHERE webhooks.id = webhook_id AND (failing_since IS NULL) <> $3
            """,
            due.id,
            due.lease,
            result.delivered,
            result.again_in,
            result.duration_ms,
            result.response_status,
            result.response_excerpt,
            result.error,
        )
        if result.gone:
            return await _switch_off(connection, due.webhook_id, GONE)
        if not result.delivered and result.again_in is None:
            return await _switch_off(connection, due.webhook_id, GIVEN_UP, FAILED_FOR_LONG)
        return None


async def _switch_off(connection: Queryable, webhook_id: UUID, reason: str, condition: str = "") -> str | None:
    return await connection.fetchval(
        f"""
        WITH webhook AS (
            UPDATE webhooks SET active = false, disabled_reason = $2 WHERE id = $1 AND active {condition} RETURNING id
        ), failed AS (
            UPDATE webhook_deliveries SET status = 'FAILED', next_attempt_at = NULL, error = $3
            WHERE id IN ({waiting_of("webhook")} FOR UPDATE OF waiting SKIP LOCKED)
        )
        SELECT $2 FROM webhook
        """,
        webhook_id,
        reason,
        SWITCHED_OFF,
    )


async def release(connection: Queryable, claimed: Sequence[Due]) -> None:
    """Give back what was claimed and not attempted to the end: it is due again at once."""
    await connection.execute(
        """
        WITH released AS (
            UPDATE webhook_deliveries SET next_attempt_at = now()
            FROM unnest($1::uuid[], $2::timestamptz[]) AS mine (id, lease)
            WHERE webhook_deliveries.id = mine.id AND next_attempt_at = lease RETURNING 1
        )
        SELECT pg_notify($3, '') FROM released LIMIT 1
        """,
        [due.id for due in claimed],
        [due.lease for due in claimed],
        DUE,
    )


async def delete_old(connection: Queryable) -> int:
    """Delete the deliveries that are older than KEPT_DAYS and over, and webhooks of runs that ended before. Returns how
    many deliveries."""
    await connection.execute(
        """
        DELETE FROM webhooks WHERE run_id IS NOT NULL AND created_at < now() - make_interval(days => $1)
            AND NOT EXISTS (
                SELECT FROM runs WHERE runs.id = webhooks.run_id
                    AND (ended_at IS NULL OR ended_at > now() - make_interval(days => $1))
            )
        """,
        KEPT_DAYS,
    )
    total_deleted = 0
    while deleted := await connection.fetchval(
        f"""
        WITH deleted AS (
            DELETE FROM webhook_deliveries WHERE id = ANY (ARRAY(
                SELECT id FROM webhook_deliveries
                WHERE created_at < now() - make_interval(days => $1) AND next_attempt_at IS NULL
                ORDER BY created_at LIMIT {DELETED_AT_ONCE}
            )) RETURNING 1
        )
        SELECT count(*) FROM deleted
        """,
        KEPT_DAYS,
    ):
        total_deleted += deleted
    return total_deleted


async def pending(connection: Queryable) -> int:
    """How many deliveries are not over."""
    return await connection.fetchval("SELECT count(*) FROM webhook_deliveries WHERE next_attempt_at IS NOT NULL")


def _delivery(row: Record) -> StoredDelivery:
    return StoredDelivery(*(row[name] for name in StoredDelivery.__slots__))
