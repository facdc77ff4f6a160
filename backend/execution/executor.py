"""The executor process: claims queued runs and works on them. Any number of executors, on any number of machines."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from contextlib import suppress
from uuid import UUID, uuid4

import orjson
import structlog
from structlog.contextvars import bound_contextvars

from backend.blocks import registry
from backend.blocks.resources import close_resources
from backend.execution.journal import Journal
from backend.execution.plan import CannotPlan, Plans
from backend.execution.run import Run
from backend.execution.waking import Waker
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import control, events, executors, queue, runs
from backend.store.address import database_address
from backend.store.clock import CLOCK
from backend.store.connection import PASSING, Pool, open_pool
from backend.store.events import Entry, Event
from backend.store.executors import DEAD_AFTER
from backend.store.listener import listen
from backend.store.runs import StoredRun
from backend.store.waking import WOKEN

# Seconds.
HEARTBEAT_EVERY = DEAD_AFTER / 5
# Seconds after which the queue is looked at even if no notification came.
LOOK_EVERY = 5.0
# Seconds, once the executor is told to stop: for nodes at work to finish, then to write what is left, then to leave and
# to close the connections. Together less than the process is given (process/signals.py).
FINISH_WITHIN = 5.0
WRITE_WITHIN = 1.0
LEAVE_WITHIN = 0.75
# Runs taken from the queue at once: enough to fill a round trip, few enough to leave some to the other executors.
CLAIM_AT_ONCE = 32
# While one writes to the database, the runs of the other go on.
JOURNALS = 2

QUEUED_EVENT = Event(1, "run.queued", {})

log = structlog.get_logger()


class Executor(AsyncAppProcess):
    """Runs up to NUM_GRAPH_WORKERS graphs at a time; told to stop, it hands them over as soon as no node works."""

    name = "executor"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        pool = await open_pool(settings, size=4)
        registry.blocks()  # now, so that the first run does not wait for the import of every block
        worker = Worker(pool, settings)
        try:
            await worker.join()
            self.ready()
            await worker.work(database_address(settings), stopping)
        finally:
            # After a mistake its runs are left to be rescued, which is counted: one of them may be what ended it.
            if not isinstance(sys.exception(), Exception):
                await worker.leave()
            await close_resources()
            with suppress(TimeoutError):  # a database that does not answer; the pool then cuts its connections
                async with asyncio.timeout(LEAVE_WITHIN):
                    await pool.close()


class Worker:
    """What an executor does, given a database."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.id: UUID = uuid4()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._pool = pool
        self._settings = settings
        self._journals = [Journal(pool) for _ in range(JOURNALS)]
        self._plans = Plans(pool)
        self._runs: dict[UUID, Run] = {}
        self._waker = Waker(pool, self.id, self._runs)
        # Set when there may be something to claim, or less to wait for.
        self._look = asyncio.Event()
        self._leaving = False
        self._database_away = False
        # Whether a claim failed: it may have been done all the same, or its runs could not be begun.
        self._unsure = False
        # By time.monotonic().
        self._last_beat = 0.0

    async def join(self) -> None:
        """Tell the others that this executor is there; only then may it claim."""
        await self._beat()

    async def work(self, dsn: str, stopping: asyncio.Event) -> None:
        """Claim runs and work on them until `stopping` is set, then hand them over."""
        async with asyncio.TaskGroup() as group:
            claiming = group.create_task(self._claim_until_leaving())
            helpers = [
                *(group.create_task(journal.write_forever()) for journal in self._journals),
                group.create_task(self._beat_forever()),
                group.create_task(self._waker.work()),
                group.create_task(listen(dsn, (runs.QUEUED, control.STOP, control.PAUSE, WOKEN), self._hear)),
            ]
            await stopping.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_WITHIN):
                    await self._hand_over(claiming)
            if self._runs:
                log.info("runs are handed over with nodes that did not finish", runs=len(self._runs))
                self._abandon_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_WITHIN):
                    for journal in self._journals:
                        await journal.drain()
            for task in (claiming, *helpers):
                task.cancel()

    async def leave(self) -> None:
        """Put back what this executor still owns and say that it is gone.

        While the database is away nothing can be said; the scheduler will miss the heartbeat.
        """
        self._abandon_all()
        try:
            async with asyncio.timeout(LEAVE_WITHIN):
                await queue.release(self._pool, self.id)
                await executors.leave(self._pool, self.id)
        except PASSING as error:
            log.warning("the database is away", error=str(error))

    async def _hand_over(self, claiming: asyncio.Task[None]) -> None:
        self._leaving = True
        self._look.set()
        for run in list(self._runs.values()):
            run.hand_over()
        await claiming
        # Without a database nothing that a node still does would be kept.
        while self._runs and not self._database_away:
            self._look.clear()
            await self._look.wait()

    def _abandon_all(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()

    def _hear(self, channel: str, payload: str) -> None:
        if channel == runs.QUEUED:
            self._look.set()
        elif channel == WOKEN:
            self._waker.look()
        elif payload:
            self._tell(channel, UUID(payload))

    def _tell(self, channel: str, run_id: UUID) -> None:
        if run := self._runs.get(run_id):
            run.stop() if channel == control.STOP else run.hand_over()

    async def _beat_forever(self) -> None:
        while True:
            try:
                await self._beat()
                for channel, run_id in await control.told(self._pool, self.id) if self._runs else ():
                    self._tell(channel, run_id)
                self._waker.look()
                self._database_away = False
            except PASSING:
                self._database_away = True
                self._look.set()
            await asyncio.sleep(HEARTBEAT_EVERY)

    async def _beat(self) -> None:
        asked = time.monotonic()
        CLOCK.told(await executors.beat(self._pool, self.id, self._name), asked)
        self._last_beat = asked

    async def _claim_until_leaving(self) -> None:
        while not self._leaving:
            self._look.clear()
            wanted = min(self._settings.num_graph_workers - len(self._runs), CLAIM_AT_ONCE)
            pause = LOOK_EVERY
            try:
                if wanted > 0 and await self._claim(wanted) == wanted:
                    continue
            except PASSING as error:
                log.warning("the database is away", error=str(error))
                self._unsure = True
                pause = HEARTBEAT_EVERY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()

    async def _claim(self, wanted: int) -> int:
        if time.monotonic() - self._last_beat > DEAD_AFTER:  # we slept, and may be taken for dead
            await self._beat()
        if self._unsure:
            await queue.release(self._pool, self.id, but=list(self._runs))
            self._unsure = False
        claimed = await queue.claim(self._pool, self.id, wanted, self._settings.max_concurrent_runs)
        for stored in claimed:
            with bound_contextvars(**_facts(stored)):
                await self._begin(stored)
        return len(claimed)

    async def _begin(self, stored: StoredRun) -> None:
        # The first attempt has only the event that queued it, but for a rerun and one that was paused before it began;
        # that is not worth a query.
        first = stored.attempt == 1 and not stored.rerun_of and stored.node_runs is None
        history = [QUEUED_EVENT] if first else await events.read(self._pool, stored.id)
        try:
            plan = await self._plans.get(stored.graph_id, stored.graph_version)
        except CannotPlan as error:
            return self._refuse(stored, history[-1].number + 1, str(error))
        if self._leaving:
            entry = Entry(stored.id, stored.attempt, [], "QUEUED")
            return self._journal_of(stored.id).append(entry, lambda _: None)
        news = self._waker.news(stored)
        journal = self._journal_of(stored.id)
        run = Run(stored, plan, journal, self._settings, self._forget, self._pool, news)
        if earlier := self._runs.get(run.id):
            earlier.abandon()  # we slept for so long that the run was rescued from us, and now it is ours again
        self._runs[run.id] = run
        log.debug("took up a run", attempt=stored.attempt)
        run.begin(history)

    def _refuse(self, stored: StoredRun, number: int, error: str) -> None:
        failed = Event(number, "run.failed", orjson.dumps({"error": error}).decode())
        news = self._waker.news(stored) or (lambda: None)
        entry = Entry(stored.id, stored.attempt, [failed], "FAILED", error)
        self._journal_of(stored.id).append(entry, lambda _: news())

    def _journal_of(self, run_id: UUID) -> Journal:
        """Always the same for a run: what it writes stays in order."""
        return self._journals[run_id.int % JOURNALS]

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is run:
            del self._runs[run.id]
        self._look.set()


def _facts(stored: StoredRun) -> dict[str, str]:
    return {"run": str(stored.id)} | ({"request_id": stored.request_id} if stored.request_id else {})
