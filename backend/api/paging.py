"""Cursor lists: {items, next_cursor, total_count}, newest first. A cursor is the place of a row, so none is skipped."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from backend.api.times import in_utc
from backend.errors import InvalidCursor
from backend.store.lists import COUNTED, Place

T = TypeVar("T")


class Row(Protocol):
    """What can be listed: rows ordered by the time they were made, then by id."""

    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


R = TypeVar("R", bound=Row)


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last")
    total_count: int = Field(description=f"how many there are on all pages; above {COUNTED:,} an estimate")


def cut(rows: Sequence[R], limit: int) -> tuple[Sequence[R], str | None]:
    """A page out of `limit` + 1 rows, and the cursor of the next one if the last row shows that there is one."""
    return rows[:limit], _cursor(rows[limit - 1]) if len(rows) > limit else None


def _cursor(row: Row) -> str:
    return urlsafe_b64encode(f"{row.created_at.isoformat()}/{row.id}".encode()).decode().rstrip("=")


async def _place(
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before", max_length=200)] = None,
) -> Place | None:
    if cursor is None:
        return None
    try:
        created_at, _, id = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("/")
        return _in_range(datetime.fromisoformat(created_at)), UUID(id)
    except ValueError:
        raise InvalidCursor("`cursor` has to be a `next_cursor` of an earlier answer, or left out.") from None


def _in_range(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a cursor has a time zone")
    return in_utc(time)


Limit = Annotated[int, Query(ge=1, le=100, description="how many to list at most")]
After = Annotated[Place | None, Depends(_place)]
