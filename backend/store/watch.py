"""Lets any number of readers follow what becomes of runs, of all graphs or one, with one look for all of them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count, islice
from uuid import UUID, uuid4

import asyncpg

from backend.store import changes
from backend.store.changes import Change, Order, Position
from backend.store.connection import PASSING, Queryable
from backend.store.events import EVENTS
from backend.store.runs import QUEUED

# Seconds from one look to the next, after which a turn that is not heard is taken for lost, and between attempts while
# the database is away.
LOOK_AT_MOST_EVERY = 0.02
HEARD_WITHIN = 5.0
RETRY_EVERY = 0.5
# Changes that are kept in memory for readers, and that a reader is given at once.
KEPT = 2000
BATCH = 100
# Runs, the last that were hinted, of which is known how far they were read.
KNOWN = 20_000


class Silence:
    """How long nothing was told, which is to be no longer than so many seconds, if that is given."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.broken()

    def broken(self) -> None:
        self._until = time.monotonic() + self._seconds if self._seconds is not None else math.inf

    def left(self) -> float | None:
        return max(0.0, self._until - time.monotonic()) if self._seconds is not None else None

    def over(self) -> bool:
        return time.monotonic() >= self._until


class Watch:
    """Looks, while anybody reads, at the runs that hints have named: each look from one snapshot to the next.

    A look begins with a call (changes.TURN) and waits until it is heard: then the hints of all that its snapshot shows
    have been heard, too, and nothing else needs to be looked at.
    """

    def __init__(self, database: Queryable) -> None:
        self._database = database
        self._name = uuid4().hex
        self._readers = 0
        self._task: asyncio.Task[None] | None = None
        self._hinted: set[UUID] = set()
        self._missed = False
        self._due = asyncio.Event()
        self._heard = asyncio.Event()
        self._called = ""
        # Looks that were begun, and that have ended; `_turned` is set, and replaced by a new one, with each end.
        self._begun = 0
        self._ended = 0
        self._turned = asyncio.Event()
        self._seen: Position | None = None
        self._known: dict[UUID, int] = {}
        self._changes: deque[Change] = deque(maxlen=KEPT)
        self._count = 0
        self._closed = False

    def heard(self, channel: str, payload: str) -> None:
        """Take a notification. One of events without ids means that some may have been missed."""
        if not self._readers:
            return
        if channel == changes.TURN:
            if payload == self._called:
                self._heard.set()
        elif channel in (EVENTS, QUEUED):
            self._hinted.update(map(UUID, payload.split()))
            if channel == EVENTS and not payload:
                self._missed = True
                self._heard.set()
            if payload or self._missed:
                self._due.set()

    def close(self) -> None:
        """End all streams where they are."""
        self._closed = True
        self._turn()

    async def follow(
        self, position: Position, user_id: UUID, graph_id: UUID | None = None, *, idle: float | None = None
    ) -> AsyncGenerator[tuple[Position, Sequence[Change]]]:
        """Batches of what became of a user's runs after a place, without end, each with the place after it.

        After `idle` seconds without news there is an empty batch. What a slow reader has missed it is given from the
        database.
        """
        silent = Silence(idle)
        async with self._reading():
            await self._look()
            read = -1
            while not self._closed:
                assert self._seen
                if read < self._count - len(self._changes):
                    read, seen = self._count, self._seen
                    async for place, batch in self._catch_up(position, seen, user_id, graph_id):
                        yield place, batch
                        silent.broken()
                    position = seen
                elif read < self._count:
                    start = read - self._count + len(self._changes)
                    batch = list(islice(self._changes, start, start + BATCH))
                    read += len(batch)
                    position = batch[-1].position
                    if mine := [each for each in batch if _is_of(each, user_id, graph_id)]:
                        yield position, mine
                        silent.broken()
                else:
                    position = self._seen
                    await self._next(silent.left())
                if silent.over():
                    yield position, ()
                    silent.broken()

    async def _next(self, seconds: float | None) -> None:
        """Return after a look, or so many seconds; raise what has put an end to looking."""
        if self._task and self._task.done():
            self._task.result()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._turned.wait()

    async def _catch_up(
        self, position: Position, until: Position, user_id: UUID | None, graph_id: UUID | None
    ) -> AsyncGenerator[tuple[Position, Sequence[Change]]]:
        """What became visible between two places."""
        after = position.last
        for seeing in filter(None, (position.seeing, until.seen)):
            rows = await changes.between(self._database, position, seeing, user_id, graph_id)
            found = [order for order, _ in changes.ordered(rows) if after is None or order > after]
            for places in _batches(found):
                by_place = await changes.read(self._database, places)
                there = [(each, by_place[each[1:]]) for each in places if each[1:] in by_place]
                if batch := list(changes.changes(there, position, seeing)):
                    yield batch[-1].position, batch
            position, after = Position(seeing, position.at), None

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[None]:
        self._readers += 1
        if self._task is None:
            self._missed, self._seen = False, None
            self._hinted.clear()
            self._known.clear()
            self._task = asyncio.create_task(self._look_forever())
            self._task.add_done_callback(lambda _: self._turn())
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers and self._task:
                self._task.cancel()
                self._task = None

    async def _look(self) -> None:
        """Return when a look has ended that was begun from now on."""
        wanted = self._begun + 1
        while self._ended < wanted and not self._closed:
            self._due.set()
            await self._next(None)

    async def _look_forever(self) -> None:
        turns = count()
        while True:
            await self._due.wait()
            self._due.clear()
            self._begun = self._ended + 1
            try:
                await self._look_once(f"{self._name} {next(turns)}")
            except (*PASSING, asyncpg.PostgresError):
                self._missed = True
                self._due.set()
                await asyncio.sleep(RETRY_EVERY)
            else:
                self._ended = self._begun
                self._turn()
                await asyncio.sleep(LOOK_AT_MOST_EVERY)

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    async def _look_once(self, name: str) -> None:
        if self._seen is None:
            self._seen = await changes.here(self._database)
            return
        missed, self._missed = self._missed, False
        hinted, self._hinted = self._hinted, set[UUID]()
        self._called = name
        self._heard.clear()
        seeing = await changes.call_turn(self._database, name)
        if not await self._is_heard() or self._missed or missed:
            self._missed = False
            found = await self._everything(self._seen, seeing)
        else:
            found = await self._of(hinted | self._hinted, self._seen, seeing)
        if self._hinted:
            self._due.set()  # of these the snapshot need not have shown all
        self._changes.extend(found)
        self._count += len(found)
        self._seen = seeing

    async def _is_heard(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_WITHIN):
                return await self._heard.wait()
        return False

    async def _everything(self, seen: Position, seeing: Position) -> list[Change]:
        batches = [batch async for _, batch in self._catch_up(seen, seeing, None, None)]
        return [change for batch in batches for change in batch]

    async def _of(self, run_ids: set[UUID], seen: Position, seeing: Position) -> list[Change]:
        if not run_ids:
            return []
        known = {id: self._known.get(id, 0) for id in run_ids}
        rows, newest = await changes.of_runs(self._database, known, seen.seen, seeing.seen)
        for id, number in newest.items():
            self._known.pop(id, None)
            self._known[id] = number
        while len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return list(changes.changes(changes.ordered(rows), seen, seeing.seen))


def _is_of(change: Change, user_id: UUID, graph_id: UUID | None) -> bool:
    return change.user_id == user_id and graph_id in (None, change.graph_id)


def _batches(places: Sequence[Order]) -> Iterator[Sequence[Order]]:
    for start in range(0, len(places), BATCH):
        yield places[start : start + BATCH]
