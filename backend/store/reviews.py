"""Reviews: the decisions of people that runs wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total
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
    """Ask for a decision, once: if it was asked for already, nothing happens. It is made at once for a graph that says
    so (graph_settings.py), or whose file it came in.

    Nothing happens either if this attempt does not own the run any more, or the run is to be stopped.
    """
    await connection.execute(
        """
        WITH run AS (
            SELECT id, user_id, graph_id, graph_version FROM runs
            WHERE id = $1 AND attempt = $2 AND status = 'RUNNING' AND NOT stop_requested FOR SHARE
        ), asked AS (
            SELECT run.id, run.user_id, coalesce(human_in_the_loop_safe_mode, true) AS waits
            FROM run JOIN graphs ON (graphs.id, graphs.version) = (run.graph_id, run.graph_version)
                LEFT JOIN graph_settings ON graph_settings.graph_id = coalesce(graphs.included_in, graphs.id)
        )
        INSERT INTO reviews (
            id, run_id, node_run, node_id, payload, instructions, editable, user_id, status, reviewed_data, reviewed_at
        )
        SELECT
            $3, id, $4, $5, $6, $7, $8, user_id, CASE WHEN waits THEN 'WAITING' ELSE 'APPROVED' END,
            CASE WHEN waits THEN NULL ELSE $6::json END, CASE WHEN waits THEN NULL ELSE now() END
        FROM asked ON CONFLICT (id) DO NOTHING
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


class Wanted(TypedDict, total=False):
    """Which reviews of a user are looked for: those that meet all that is given."""

    run_id: UUID | None
    status: str | None


async def page(
    connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None, **wanted: Unpack[Wanted]
) -> list[StoredReview]:
    """Reviews, newest first, from just after the row at `before`."""
    query, arguments = _listing(_REVIEWS, user_id, before or START, **wanted)
    return [_review(row) for row in await connection.fetch(f"{query} LIMIT {limit:d}", *arguments)]


async def count(connection: Queryable, user_id: UUID, **wanted: Unpack[Wanted]) -> int:
    """How many there are: exactly, if they are few."""
    query, arguments = _listing("SELECT reviews.id FROM reviews", user_id, START, **wanted)
    return await total(connection, query, arguments)


def _listing(reviews: str, user_id: UUID, before: Place, **wanted: Unpack[Wanted]) -> tuple[str, list[object]]:
    arguments: list[object] = [user_id, *before]
    conditions = ["reviews.user_id = $1 AND (reviews.created_at, reviews.id) < ($2, $3)"]
    for column in ("run_id", "status"):
        if value := wanted.get(column):
            arguments.append(value)
            conditions.append(f"reviews.{column} = ${len(arguments)}")
    where = " AND ".join(conditions)
    return f"{reviews} WHERE {where} ORDER BY reviews.created_at DESC, reviews.id DESC", arguments


async def lock_run(connection: Queryable, user_id: UUID, run_id: UUID) -> str | None:
    """The status of a run of this user, which nobody changes until the end of the transaction; None if it has none."""
    return await connection.fetchval(
        "SELECT status FROM runs WHERE id = $1 AND user_id = $2 FOR NO KEY UPDATE", run_id, user_id
    )


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
