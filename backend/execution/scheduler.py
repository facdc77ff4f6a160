"""The scheduler process: begins the runs of schedules, gives those of dead executors to living ones, wakes those whose
time has come, and deletes what is too old to keep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import structlog

from backend.execution.firing import keep_schedules
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import deliveries, executors, files, idempotency, queue, rate_limits, retention, waking
from backend.store.address import database_address
from backend.store.connection import PASSING, Pool, open_pool
from backend.store.executors import DEAD_AFTER

# Seconds.
RESCUE_EVERY = 1.0
RETENTION_EVERY = 600.0

log = structlog.get_logger()


class Scheduler(AsyncAppProcess):
    """Any number may run: each statement is one transaction, and doing it twice changes nothing."""

    name = "scheduler"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        async with await open_pool(settings, size=3) as pool:
            self.ready()
            async with asyncio.TaskGroup() as group:
                # Beside the rest: there may be millions to delete, while runs wait to be rescued.
                deleting = group.create_task(delete_surplus(pool, settings))
                firing = group.create_task(keep_schedules(pool, database_address(settings)))
                await keep_house(pool, stopping)
                deleting.cancel()
                firing.cancel()


async def keep_house(pool: Pool, stopping: asyncio.Event) -> None:
    watch = Watch()
    while not stopping.is_set():
        pause = RESCUE_EVERY
        try:
            await executors.forget(pool, watch.silent(await executors.heartbeats(pool)))
            await rescue(pool)
            pause = min(RESCUE_EVERY, await wake(pool) or RESCUE_EVERY)
        except PASSING:
            watch = Watch()  # what nobody could write is no silence
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stopping.wait()


class Watch:
    """Sees which executors have fallen silent: whose heartbeat stays the same for as long as it is looked at.

    What the clocks say does not matter, nor what time went by while nobody looked: then we may have been stopped, and
    all others with us.
    """

    def __init__(self) -> None:
        self._seen: dict[UUID, tuple[datetime, float]] = {}
        self._looked = time.monotonic()

    def silent(self, heartbeats: Mapping[UUID, datetime]) -> dict[UUID, datetime]:
        """Those of the executors that are dead, with their last heartbeats."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * RESCUE_EVERY), now
        self._seen = {id: (beat, self._silence(id, beat, passed)) for id, beat in heartbeats.items()}
        return {id: beat for id, (beat, silence) in self._seen.items() if silence >= DEAD_AFTER}

    def _silence(self, id: UUID, heartbeat: datetime, passed: float) -> float:
        before, silence = self._seen.get(id, (None, 0.0))
        return silence + passed if heartbeat == before else 0.0


async def rescue(pool: Pool) -> None:
    for run_id, request_id in await queue.rescue(pool):
        log.warning("rescued a run from an executor that is gone", run=str(run_id), request_id=request_id)


async def wake(pool: Pool) -> float | None:
    """Returns the seconds until there is something to wake again, if that is known."""
    for run_id in await waking.parents_to_tell(pool):
        await waking.wake(pool, run_id)
    return await waking.wake_due(pool)


async def delete_surplus(pool: Pool, settings: Settings) -> None:
    """Delete what is not to be kept, again and again, until cancelled."""
    days, count = settings.run_retention_days, settings.run_retention_count
    while True:
        with suppress(*PASSING):
            old = await retention.delete_old(pool, days) if days else 0
            await idempotency.delete_old(pool)
            surplus = await retention.delete_surplus(pool, count) if count else 0
            await rate_limits.forget(pool)
            expired = await files.delete_expired(pool)
            if expired:
                log.info("deleted files", expired=expired)
            await deliveries.delete_old(pool)
            if old or surplus:
                log.info("deleted runs", too_old=old, too_many=surplus)
            await retention.delete_graphs(pool)
        await asyncio.sleep(RETENTION_EVERY)
