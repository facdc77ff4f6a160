"""`Idempotency-Key`: a request to begin a run that is sent again, because its answer was lost, begins no other run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Header
from pydantic import BaseModel

from backend.api.access import Caller
from backend.errors import IdempotencyKeyReused
from backend.store import idempotency
from backend.store.connection import Pool, Queryable
from backend.store.idempotency import Used
from backend.store.runs import StoredRun

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="of all requests with the same key, for 24 hours, only the first that is not refused begins a run",
    ),
]

# In the answer to a request that was sent again.
REPLAYED = "Idempotent-Replayed"


class Once:
    """What begins a run, for one request: the operation, and all that decides what it does."""

    def __init__(self, database: Pool, caller: Caller, key: str | None, *request: Any) -> None:
        self._database = database
        self._user_id = caller.user_id
        self._key = key
        self._request = _hash(request) if key else b""

    async def earlier(self) -> UUID | None:
        """The run that was begun for the key already."""
        return self._run_of(await idempotency.get(self._database, self._user_id, self._key)) if self._key else None

    async def begin(self, run_id: UUID, insert: Callable[[Queryable], Awaitable[StoredRun]]) -> StoredRun | UUID:
        """Begin the run in a transaction; or return the id of the one that was begun for the key in the meantime."""
        async with self._database.acquire() as connection, connection.transaction():
            earlier = await self._take(connection, run_id)
            return await insert(connection) if earlier is None else earlier

    async def _take(self, connection: Queryable, run_id: UUID) -> UUID | None:
        use = Used(self._request, run_id)
        return self._run_of(await idempotency.take(connection, self._user_id, self._key, use)) if self._key else None

    def _run_of(self, used: Used | None) -> UUID | None:
        if used and used.request != self._request:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used in the last 24 hours for another request: take a new one."
            )
        return used.run_id if used else None


def _hash(request: Sequence[Any]) -> bytes:
    parts = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in request]
    return sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()
