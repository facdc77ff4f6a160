"""The reviews of runs: what people are asked to decide, and their decisions."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import Body, JsonRoute
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import (
    AlreadyDecided,
    InvalidCursor,
    NotEditable,
    RunEnded,
    TooLarge,
    UnknownReview,
    UnknownRun,
    Unprocessable,
    UnsupportedMediaType,
)
from backend.store import reviews, waking
from backend.store.connection import Queryable
from backend.store.reviews import Decision, StoredReview
from backend.store.runs import ENDED

router = APIRouter(prefix="/api/v2/runs", tags=["reviews"], route_class=JsonRoute)

ReviewStatus = Literal["WAITING", "APPROVED", "REJECTED"]


class Review(BaseModel):
    """What a node execution wants a person to decide."""

    node_exec_id: UUID = Field(description="the review is known by its node execution")
    node_id: str
    run_id: UUID
    graph_id: UUID
    graph_version: int
    payload: Any = Field(description="what is to be looked at")
    instructions: str
    editable: bool = Field(description="whether a decision may come with changed data")
    status: ReviewStatus
    reviewed_data: Any = Field(description="once decided: the payload, as changed if it was")
    review_message: str | None
    was_edited: bool
    created_at: datetime
    reviewed_at: datetime | None


class ReviewDecision(Body):
    """One decision. `reviewed_data`, if it is there, takes the place of the payload."""

    node_exec_id: UUID = Field(strict=False)
    approved: bool
    reviewed_data: Any = Field(default=None, examples=[{"subject": "Hello"}])
    message: str | None = Field(default=None, max_length=2000)

    @property
    def edited(self) -> bool:
        return "reviewed_data" in self.model_fields_set


class Decisions(Body):
    """Decisions on reviews of one run: any number of those that wait."""

    reviews: Annotated[list[ReviewDecision], Field(min_length=1, max_length=1000)]


class Decided(BaseModel):
    """The run goes on with what was decided."""

    run_id: UUID
    approved_count: int
    rejected_count: int


@router.get(
    "/reviews",
    operation_id="list_reviews",
    summary="List what people are asked to decide, newest first",
    responses=documented(InvalidCursor),
)
async def list_(
    use: Use,
    caller: Annotated[Caller, needs(Permission.READ_RUN_REVIEW)],
    after: After,
    limit: Limit = 20,
    run_id: Annotated[UUID | None, Query(description="only reviews of this run")] = None,
    status: Annotated[ReviewStatus | None, Query(description="only reviews in this status")] = None,
) -> Page[Review]:
    wanted: reviews.Wanted = {"run_id": run_id, "status": status}
    rows = await reviews.page(use.database, caller.user_id, limit=limit + 1, before=after, **wanted)
    shown, next_cursor = cut(rows, limit)
    total = await reviews.count(use.database, caller.user_id, **wanted)
    return Page(items=[_review(row) for row in shown], next_cursor=next_cursor, total_count=total)


@router.post(
    "/{run_id:uuid}/reviews",
    status_code=202,
    operation_id="decide_reviews",
    summary="Decide",
    responses=documented(
        UnknownRun, UnknownReview, AlreadyDecided, RunEnded, NotEditable, TooLarge, UnsupportedMediaType
    ),
)
async def decide(
    run_id: UUID,
    body: Decisions,
    use: Use,
    caller: Annotated[Caller, needs(Permission.WRITE_RUN_REVIEW)],
) -> Decided:
    """All the decisions count, or, if one of them is refused, none. The run goes on with those that are made; it need
    not be in REVIEW, as other nodes of it may be working."""
    async with use.database.acquire() as connection, connection.transaction():
        await _check(connection, caller, run_id, body.reviews)
        await reviews.decide(connection, [_decision(each) for each in body.reviews])
        await waking.wake(connection, run_id)
    approved = sum(each.approved for each in body.reviews)
    return Decided(run_id=run_id, approved_count=approved, rejected_count=len(body.reviews) - approved)


async def _check(connection: Queryable, caller: Caller, run_id: UUID, decisions: list[ReviewDecision]) -> None:
    """Raises an ApiError if one of the decisions cannot be made. From now on nobody else decides for this run."""
    status = await reviews.lock_run(connection, caller.user_id, run_id)
    if status is None:
        raise UnknownRun(f"There is no run {run_id}.")
    if len({each.node_exec_id for each in decisions}) < len(decisions):
        raise Unprocessable("A review is decided twice in `reviews`: decide each once.")
    asked = {review.id: review for review in await reviews.of_run(connection, run_id)}
    for decision in decisions:
        _check_one(asked.get(decision.node_exec_id), decision, status)


def _check_one(review: StoredReview | None, decision: ReviewDecision, status: str) -> None:
    if review is None:
        raise UnknownReview(f"The run has no review {decision.node_exec_id}: GET {router.prefix}/reviews lists them.")
    if status in ENDED and (status == "TERMINATED" or review.status == "WAITING"):
        raise RunEnded(f"The run {review.run_id} has ended ({status}): there is nothing to decide any more.")
    if review.status != "WAITING":
        raise AlreadyDecided(f"The review {review.id} has been decided already: it is {review.status}.")
    if decision.edited and not review.editable:
        raise NotEditable(f"The data of the review {review.id} may not be changed: leave `reviewed_data` out.")


def _decision(given: ReviewDecision) -> Decision:
    return Decision(given.node_exec_id, given.approved, given.message, given.edited, given.reviewed_data)


def _review(stored: StoredReview) -> Review:
    fields = {name: getattr(stored, name) for name in StoredReview.__slots__ if name in Review.model_fields}
    return Review(node_exec_id=stored.id, **fields)
