"""Carries the news between runs that wait and what they wait for, as seen from one executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from uuid import UUID

from backend.execution.run import Run
from backend.store.connection import PASSING, Pool
from backend.store.runs import StoredRun
from backend.store.waking import take_waking, wake, woken


class Waker:
    """Wakes the runs of this executor that were woken, and wherever they are the runs above those of this executor.

    While the database is away nothing is carried; the next heartbeat has it look again.
    """

    def __init__(self, pool: Pool, executor: UUID, runs: Mapping[UUID, Run]) -> None:
        self._pool = pool
        self._executor = executor
        self._runs = runs
        self._to_wake: set[UUID] = set()
        self._look = asyncio.Event()

    def look(self) -> None:
        """Some run of this executor may have been woken."""
        self._look.set()

    def news(self, run: StoredRun) -> Callable[[], None] | None:
        """What to call whenever there is news of this run; None if nobody waits for it."""
        return partial(self._tell, run.parent_run_id) if run.parent_run_id else None

    def _tell(self, run_id: UUID) -> None:
        self._to_wake.add(run_id)
        self._look.set()

    async def work(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            with suppress(*PASSING):
                await self.carry()

    async def carry(self) -> None:
        """Carry what there is now."""
        for run_id in await woken(self._pool, self._executor) if self._runs else ():
            await self._wake_here(run_id)
        while self._to_wake:
            run_id = self._to_wake.pop()
            try:
                await wake(self._pool, run_id)
            except PASSING:
                self._to_wake.add(run_id)
                raise

    async def _wake_here(self, run_id: UUID) -> None:
        # One that is just being let go, or taken up, keeps its mark, and is queued instead of parked. If it could be
        # parked after its mark was taken and before it looks, our death at that moment would have it wait for ever.
        if (run := self._runs.get(run_id)) and run.stay():
            try:
                await take_waking(self._pool, self._executor, run_id)
            finally:
                run.wake()
