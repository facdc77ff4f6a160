"""Lets any number of readers follow the events of runs, with one database read per run and wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from backend.store import events
from backend.store.connection import PASSING, Queryable
from backend.store.events import ENDS, EVENTS, Event
from backend.store.watch import Watch

# Seconds after which a followed run is looked at even if no notification came.
LOOK_EVERY = 5.0
# Seconds between attempts while the database is away.
RETRY_EVERY = 0.5
# What is kept in memory of a followed run for its readers: the newest events, up to this many and this many bytes.
TAIL_EVENTS = 1000
TAIL_BYTES = 4 * 1024 * 1024
# Events, and bytes, that a reader is given at once.
READ_EVENTS = 200
BATCH_BYTES = 64 * 1024

Render = Callable[[UUID, Event], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """An event, and the bytes it is sent as: made once, however many readers there are."""

    event: Event
    rendered: bytes


@dataclass(eq=False, slots=True)
class _Tail:
    """The newest events of a run that somebody follows."""

    items: deque[Item] = field(default_factory=deque[Item])
    size: int = 0
    last: int = 0
    ended: bool = False
    readers: int = 0
    hinted: asyncio.Event = field(default_factory=asyncio.Event)
    # Set, and replaced by a new one, whenever there is news.
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def add(self, items: Sequence[Item]) -> None:
        for item in items:
            self.items.append(item)
            self.size += len(item.rendered)
        while len(self.items) > TAIL_EVENTS or (self.size > TAIL_BYTES and len(self.items) > 1):
            self.size -= len(self.items.popleft().rendered)
        if items:
            self.last = items[-1].event.number
            self.ended = items[-1].event.type in ENDS
            self.wake()

    def let_go(self) -> None:
        """Have all readers look where they are."""
        self.opened.set()
        self.wake()

    def raise_fault(self) -> None:
        """Raise what ended the work on this tail, if anything has."""
        if self.task and self.task.done():
            self.task.result()

    def wake(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    def after(self, number: int) -> list[Item]:
        """What follows event `number`, as much as is sent at once; nothing if that is not in memory any more."""
        start = number + 1 - self.items[0].event.number if self.items else -1
        batch: list[Item] = []
        size = 0
        while 0 <= start < len(self.items) and size < BATCH_BYTES:
            batch.append(self.items[start])
            size += len(batch[-1].rendered)
            start += 1
        return batch


class Feed:
    """Follows runs, and by its `watch` what becomes of many. `render` makes the bytes of an event; `heard` has to be
    given to `store.listener.listen`."""

    def __init__(self, database: Queryable, render: Render) -> None:
        self._database = database
        self._render = render
        self._tails: dict[str, _Tail] = {}
        self._closed = False
        self.watch = Watch(database)

    def heard(self, channel: str, payload: str) -> None:
        """Take a notification: the ids of runs with new events, or nothing, which may mean any run."""
        if channel == EVENTS:
            for run_id in payload.split() or list(self._tails):
                if tail := self._tails.get(run_id):
                    tail.hinted.set()
        self.watch.heard(channel, payload)

    def close(self) -> None:
        """End all streams where they are; their readers come back to another process, or to this one restarted."""
        self._closed = True
        self.watch.close()
        for tail in self._tails.values():
            tail.let_go()

    async def follow(
        self, run_id: UUID, after: int | None = None, *, idle: float | None = None
    ) -> AsyncGenerator[Sequence[Item]]:
        """Batches of the events of a run that exists, from just after number `after` (None: from now on) to its last.

        After `idle` seconds without news there is an empty batch. A reader that is slow keeps nobody waiting and
        nothing in memory: what it missed it is given from the database.
        """
        async with self._tail(run_id) as tail:
            position = tail.last if after is None else min(after, tail.last)
            while not self._closed and not (tail.ended and position >= tail.last):
                if position < tail.last:
                    batch = tail.after(position) or await self._read(run_id, position)
                    if not batch:
                        return  # Retention has deleted the run.
                    position = batch[-1].event.number
                    yield batch
                else:
                    tail.raise_fault()
                    if not await _within(idle, tail.grown):
                        yield ()

    async def wait_for_end(self, run_id: UUID, timeout: float) -> None:
        """Return when the run has ended, or after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), aclosing(self.follow(run_id)) as batches:
                async for _ in batches:
                    pass

    @asynccontextmanager
    async def _tail(self, run_id: UUID) -> AsyncGenerator[_Tail]:
        key = str(run_id)
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = _Tail()
            tail.task = asyncio.create_task(self._keep_up(run_id, tail))
            tail.task.add_done_callback(lambda _: tail.let_go())
        tail.readers += 1
        try:
            await tail.opened.wait()
            yield tail
        finally:
            tail.readers -= 1
            if not tail.readers and tail.task:
                tail.task.cancel()
                del self._tails[key]

    async def _keep_up(self, run_id: UUID, tail: _Tail) -> None:
        while not tail.ended:
            tail.hinted.clear()
            try:
                await self._catch_up(run_id, tail)
            except (*PASSING, asyncpg.PostgresError):
                await asyncio.sleep(RETRY_EVERY)
            else:
                await _within(LOOK_EVERY, tail.hinted)

    async def _catch_up(self, run_id: UUID, tail: _Tail) -> None:
        if not tail.opened.is_set():
            tail.last = max(0, await newest(self._database, run_id) - TAIL_EVENTS)
        while news := await self._read(run_id, tail.last):
            tail.add(news)
            if len(news) < READ_EVENTS:
                break
        tail.opened.set()

    async def _read(self, run_id: UUID, after: int) -> list[Item]:
        news = await events.read(self._database, run_id, after=after, limit=READ_EVENTS)
        return [Item(event, self._render(run_id, event)) for event in news]


async def newest(connection: Queryable, run_id: UUID) -> int:
    """The number of the last event of a run so far; 0 before the first."""
    return await connection.fetchval("SELECT coalesce(max(number), 0) FROM run_events WHERE run_id = $1", run_id)


async def _within(seconds: float | None, happened: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await happened.wait()
    except TimeoutError:
        return False
