"""Carries the news between runs that wait and what they wait for, as seen from one executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from uuid import UUID

from backend.execution.run import Run
from backend.store.connection import PASSING, Pool
from backend.store.runs import StoredRun
from backend.store.waking import take_woken, wake


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
            try:
                await self._carry()
            except PASSING:
                self._wake_here(self._runs)  # the answer may be lost that says which were woken

    async def _carry(self) -> None:
        if self._runs:
            self._wake_here(await take_woken(self._pool, self._executor))
        while self._to_wake:
            run_id = self._to_wake.pop()
            try:
                await wake(self._pool, run_id)
            except PASSING:
                self._to_wake.add(run_id)
                raise

    def _wake_here(self, run_ids: Iterable[UUID]) -> None:
        # One that is just being let go may not have looked: it is woken again, wherever it is then.
        self._to_wake |= {id for id in run_ids if id not in self._runs or not self._runs[id].wake()}
