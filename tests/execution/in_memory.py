"""Runs without a database: the real engine on a journal that commits when the test wants, and dies where it wants."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import orjson

from backend.execution.plan import Plan, make_plan
from backend.execution.run import Run
from backend.graphs.graph import Graph
from backend.settings import Settings
from backend.store.events import Entry, Event
from backend.store.runs import StoredRun

RUN = UUID(int=1)
# Events after which a run is left as it is: a cycle may go on for ever.
BUDGET = 600


class MemoryJournal:
    """Commits entries in order, in batches and at moments that `random` chooses; after `lives` events it is dead."""

    def __init__(self, random: Random, lives: int) -> None:
        self.events: list[Event] = []
        self.end: Entry | None = None
        self._random = random
        self._lives = lives
        self._waiting: deque[tuple[Entry, Callable[[bool], None]]] = deque()
        self.closed = asyncio.Event()

    def append(self, entry: Entry, written: Callable[[bool], None]) -> None:
        self._waiting.append((entry, written))
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        if self._waiting and self._random.random() < 0.5:
            asyncio.get_running_loop().call_soon(self._look)
            return
        for _ in range(self._random.randint(1, 4)):
            if self._waiting and not self.closed.is_set():
                self._commit(*self._waiting.popleft())
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._look)

    def _commit(self, entry: Entry, written: Callable[[bool], None]) -> None:
        for event in entry.events:
            self.events.append(Event(event.number, event.type, orjson.loads(event.data), event.created_at))
        if entry.status:
            self.end = entry
        if entry.status or len(self.events) >= self._lives:
            self.closed.set()
        written(True)


async def execute(
    document: dict[str, Any], masks: dict[str, Any], inputs: dict[str, Any], seed: int, deaths: list[int]
) -> MemoryJournal:
    """Run an agent file to its end, by one executor after the other: each of the first dies after so many events.

    A run that goes on for ever has no `end`.
    """
    plan = make_plan(Graph.model_validate(document), RUN, 1)
    random = Random(seed)
    history = [Event(1, "run.queued", {})]
    for attempt, lives in enumerate([*deaths, BUDGET], 1):
        journal = MemoryJournal(random, lives)
        await execute_once(plan, stored_run(inputs, masks, attempt), journal, history)
        history += journal.events
        if journal.end:
            break
    journal.events = history
    return journal


def stored_run(inputs: dict[str, Any], masks: dict[str, Any], attempt: int) -> StoredRun:
    now = datetime.now(UTC)
    stored = StoredRun(RUN, RUN, 1, "RUNNING", inputs, None, False, attempt, RUN, now, now, None, None, None, 0)
    return replace(stored, input_masks=masks or None)


async def execute_once(plan: Plan, stored: StoredRun, journal: MemoryJournal, history: list[Event]):
    run = Run(stored, plan, journal, Settings(), lambda run: None, None, None)  # pyright: ignore[reportArgumentType]
    run.begin(history)
    async with asyncio.timeout(10):
        await journal.closed.wait()
    run.abandon()
