"""Reviews: the decisions of people that runs wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.runs import StoredRun


@dataclass(frozen=True, slots=True)
class StoredReview:
    """What a node wants decided, and the decision. The id is that of the node execution. `status` is WAITING, APPROVED
    or REJECTED; `reviewed_data` is the payload, edited or not, once that is decided."""

    id: UUID
    run_id: UUID
    node_run: int
    node_id: str
    payload: Any
    instructions: str
    editable: bool
    status: str
    reviewed_data: Any
    review_message: str | None
    was_edited: bool
    created_at: datetime
    reviewed_at: datetime | None
    graph_id: UUID
    graph_version: int


@dataclass(frozen=True, slots=True)
class Decision:
    """`data` is what the payload was changed to; it counts only if `edited`."""

    review_id: UUID
    approved: bool
    message: str | None
    edited: bool
    data: Any


# By their names: within a transaction `*` fails when a newer version of the code has added a column in the meantime.
_COLUMNS = ", ".join(name if name.startswith("graph_") else f"reviews.{name}" for name in StoredReview.__slots__)
_REVIEWS = f"SELECT {_COLUMNS} FROM reviews JOIN runs ON runs.id = run_id"


async def insert(
    connection: Queryable,
    run: StoredRun,
    id: UUID,
    node_run: int,
    node_id: str,
    payload: Any,
    instructions: str,
    editable: bool,
) -> None:
    """Ask for a decision, once: if it was asked for already, nothing happens.

    Nothing happens either if this attempt does not own the run any more, or the run is to be stopped.
    """
    await connection.execute(
        """
        WITH run AS (
            SELECT id FROM runs WHERE id = $1 AND attempt = $2 AND status = 'RUNNING' AND NOT stop_requested FOR SHARE
        )
        INSERT INTO reviews (id, run_id, node_run, node_id, payload, instructions, editable)
        SELECT $3, id, $4, $5, $6, $7, $8 FROM run ON CONFLICT (id) DO NOTHING
        """,
        run.id,
        run.attempt,
        id,
        node_run,
        node_id,
        payload,
        instructions,
        editable,
    )


async def get(connection: Queryable, id: UUID) -> StoredReview | None:
    row = await connection.fetchrow(f"{_REVIEWS} WHERE reviews.id = $1", id)
    return _review(row) if row else None


async def of_run(connection: Queryable, run_id: UUID) -> list[StoredReview]:
    rows = await connection.fetch(f"{_REVIEWS} WHERE run_id = $1 ORDER BY node_run", run_id)
    return [_review(row) for row in rows]


async def page(
    connection: Queryable,
    *,
    limit: int,
    before: tuple[datetime, UUID] | None = None,
    run_id: UUID | None = None,
    status: str | None = None,
) -> list[StoredReview]:
    """Reviews, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"{_REVIEWS} WHERE ($2::timestamptz IS NULL OR (reviews.created_at, reviews.id) < ($2, $3::uuid))"
        " AND ($4::uuid IS NULL OR run_id = $4) AND ($5::text IS NULL OR reviews.status = $5)"
        " ORDER BY reviews.created_at DESC, reviews.id DESC LIMIT $1",
        limit,
        *(before or (None, None)),
        run_id,
        status,
    )
    return [_review(row) for row in rows]


async def count(connection: Queryable, *, run_id: UUID | None = None, status: str | None = None) -> int:
    return await connection.fetchval(
        "SELECT count(*) FROM reviews WHERE ($1::uuid IS NULL OR run_id = $1) AND ($2::text IS NULL OR status = $2)",
        run_id,
        status,
    )


async def lock_run(connection: Queryable, run_id: UUID) -> str | None:
    """The status of a run, which until the end of the transaction nobody changes; None if there is no such run."""
    return await connection.fetchval("SELECT status FROM runs WHERE id = $1 FOR NO KEY UPDATE", run_id)


async def decide(connection: Queryable, decisions: Sequence[Decision]) -> set[UUID]:
    """Write down decisions. Returns the ids of those that were still waiting, the only ones that changed."""
    rows = await connection.fetch(
        """
        UPDATE reviews SET
            status = CASE WHEN approved THEN 'APPROVED' ELSE 'REJECTED' END,
            review_message = message,
            was_edited = edited,
            reviewed_data = CASE WHEN edited THEN data ELSE payload END,
            reviewed_at = now()
        FROM unnest($1::uuid[], $2::boolean[], $3::text[], $4::boolean[], $5::json[])
            AS decision (id, approved, message, edited, data)
        WHERE reviews.id = decision.id AND status = 'WAITING' RETURNING reviews.id
        """,
        [each.review_id for each in decisions],
        [each.approved for each in decisions],
        [each.message for each in decisions],
        [each.edited for each in decisions],
        [each.data for each in decisions],
    )
    return {row["id"] for row in rows}


def _review(row: Record) -> StoredReview:
    return StoredReview(*row)
