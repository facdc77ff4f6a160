"""A writer of an executor: collects what many runs want written and commits it together (group commit)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from uuid import UUID

from backend.execution.patience import patiently
from backend.store import events
from backend.store.connection import Queryable
from backend.store.events import Entry

# Entries in one commit: enough to fill a round trip, few enough that none waits long.
BATCH = 500
# Bytes of values in one commit, unless a single entry has more: a batch has to fit into one message of PostgreSQL.
BATCH_BYTES = 8 * 1024 * 1024


class Journal:
    """Writes entries in the order they were appended; an entry is never written twice and never after a later one."""

    def __init__(self, database: Queryable) -> None:
        self._database = database
        self._waiting: deque[tuple[Entry, Callable[[bool], None]]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def append(self, entry: Entry, written: Callable[[bool], None]) -> None:
        """Queue an entry. `written(True)` is called once it is durable, `written(False)` if the run is not ours."""
        self._waiting.append((entry, written))
        self._idle.clear()
        self._wake.set()

    async def drain(self) -> None:
        """Wait until all that was appended is written."""
        await self._idle.wait()

    async def write_forever(self) -> None:
        await self._append([])  # the first statement takes many times longer: not when a run waits for it
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._write_batch()
            self._idle.set()

    async def _write_batch(self) -> None:
        batch = self._next_batch()
        owned = await self._append([entry for entry, _ in batch])
        for entry, written in batch:
            written(entry.run_id in owned)

    def _next_batch(self) -> list[tuple[Entry, Callable[[bool], None]]]:
        batch = [self._waiting.popleft()]
        size = batch[0][0].size
        while self._waiting and len(batch) < BATCH and (size := size + self._waiting[0][0].size) <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
        return batch

    def _append(self, entries: list[Entry]) -> Awaitable[set[UUID]]:
        return patiently(lambda: events.append(self._database, entries))
