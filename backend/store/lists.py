"""What lists have in common: rows newest first, from a place on, and how many there are in all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from backend.store.connection import Queryable

# Up to here rows are counted; above it would take the longer the more there are.
COUNTED = 10_000

Place = tuple[datetime, UUID]
# The place before the newest row.
START: Place = (datetime.max.replace(tzinfo=UTC), UUID(int=0))


async def total(connection: Queryable, query: str, arguments: Sequence[object], first: str | None = None) -> int:
    """How many rows a query has: counted if they are few, PostgreSQL's estimate if they are more than COUNTED.

    `first` gives the first COUNTED + 1 of them, where just a limit would not do.
    """
    first = first or f"{query} LIMIT {COUNTED + 1}"
    counted: int = await connection.fetchval(f"SELECT count(*) FROM ({first}) AS counted", *arguments)
    if counted <= COUNTED:
        return counted
    [explained] = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments)
    return max(counted, explained["Plan"]["Plan Rows"])
