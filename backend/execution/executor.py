"""The executor process: claims queued runs and works on them. Any number of executors, on any number of machines."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from uuid import UUID, uuid4

import orjson
import structlog

from backend.blocks import registry
from backend.blocks.resources import close_resources
from backend.execution.journal import Journal
from backend.execution.plan import CannotPlan, Plans
from backend.execution.run import Run
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import events, executors, runs
from backend.store.address import database_address
from backend.store.connection import PASSING, Pool, open_pool
from backend.store.events import Entry, Event
from backend.store.executors import DEAD_AFTER
from backend.store.listener import listen
from backend.store.runs import StoredRun

# Seconds.
HEARTBEAT_EVERY = DEAD_AFTER / 5
# Seconds after which the queue is looked at even if no notification came.
LOOK_EVERY = 5.0
# Runs taken from the queue at once: enough to fill a round trip, few enough to leave some to the other executors.
CLAIM_AT_ONCE = 32

QUEUED_EVENT = Event(1, "run.queued", {})

log = structlog.get_logger()


class Executor(AsyncAppProcess):
    """Runs up to NUM_GRAPH_WORKERS graphs at a time; told to stop, it puts its runs back for others to go on with."""

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
            await worker.leave()
            await close_resources()
            await pool.close()


class Worker:
    """What an executor does, given a database."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.id: UUID = uuid4()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._pool = pool
        self._settings = settings
        self._journal = Journal(pool)
        self._plans = Plans(pool)
        self._runs: dict[UUID, Run] = {}
        self._look = asyncio.Event()

    async def join(self) -> None:
        """Tell the others that this executor is there; only then may it claim."""
        await executors.beat(self._pool, self.id, self._name)

    async def work(self, dsn: str, stopping: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._journal.write_forever()),
                group.create_task(self._beat_forever()),
                group.create_task(self._claim_forever()),
                group.create_task(listen(dsn, (runs.QUEUED, runs.STOP), self._hear)),
            ]
            await stopping.wait()
            for task in tasks[1:]:
                task.cancel()
            self._abandon_all()
            await self._journal.drain()
            tasks[0].cancel()

    async def leave(self) -> None:
        """Hand over: the runs go back to the queue, and on in another executor."""
        self._abandon_all()
        await runs.release(self._pool, self.id)
        await executors.leave(self._pool, self.id)

    def _abandon_all(self) -> None:
        for run in list(self._runs.values()):
            run.abandon()

    def _hear(self, channel: str, payload: str) -> None:
        if channel == runs.QUEUED:
            self._look.set()
        elif payload:
            self._stop(UUID(payload))

    def _stop(self, run_id: UUID) -> None:
        if run := self._runs.get(run_id):
            run.stop()

    async def _beat_forever(self) -> None:
        while True:
            with suppress(*PASSING):
                await executors.beat(self._pool, self.id, self._name)
                for run_id in await runs.to_be_stopped(self._pool, self.id):
                    self._stop(run_id)
            await asyncio.sleep(HEARTBEAT_EVERY)

    async def _claim_forever(self) -> None:
        while True:
            self._look.clear()
            wanted = min(self._settings.num_graph_workers - len(self._runs), CLAIM_AT_ONCE)
            if wanted > 0 and await self._claim(wanted) == wanted:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._look.wait()

    async def _claim(self, wanted: int) -> int:
        try:
            claimed = await runs.claim(self._pool, self.id, wanted)
            for stored in claimed:
                await self._begin(stored)
        except PASSING as error:
            log.warning("the database is away", error=str(error))
            await asyncio.sleep(HEARTBEAT_EVERY)
            return wanted
        return len(claimed)

    async def _begin(self, stored: StoredRun) -> None:
        # The first attempt has only the event that queued it; that is not worth a query.
        history = [QUEUED_EVENT] if stored.attempt == 1 else await events.read_all(self._pool, stored.id)
        try:
            plan = await self._plans.get(stored.graph_id, stored.graph_version)
        except CannotPlan as error:
            return self._refuse(stored, history[-1].number + 1, str(error))
        run = Run(stored, plan, self._journal, self._settings.trusted_hosts, lambda: self._forget(stored.id))
        self._runs[stored.id] = run
        run.begin(history)

    def _refuse(self, stored: StoredRun, number: int, error: str) -> None:
        failed = Event(number, "run.failed", orjson.dumps({"error": error}).decode())
        self._journal.append(Entry(stored.id, stored.attempt, [failed], "FAILED", error), lambda _: None)

    def _forget(self, run_id: UUID) -> None:
        self._runs.pop(run_id, None)
        self._look.set()
