"""The scheduler process: gives the runs of dead executors to living ones, wakes those whose time has come, and deletes
what is too old to keep."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import executors, queue, retention, waking
from backend.store.connection import PASSING, Pool, open_pool

# Seconds.
RESCUE_EVERY = 1.0
RETENTION_EVERY = 600.0

log = structlog.get_logger()


class Scheduler(AsyncAppProcess):
    """Any number may run: each statement is one transaction, and doing it twice changes nothing."""

    name = "scheduler"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        async with await open_pool(settings, size=2) as pool:
            self.ready()
            async with asyncio.TaskGroup() as group:
                # Beside the rest: there may be millions to delete, while runs wait to be rescued.
                deleting = group.create_task(delete_surplus(pool, settings))
                await keep_house(pool, stopping)
                deleting.cancel()


async def keep_house(pool: Pool, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        pause = RESCUE_EVERY
        with suppress(*PASSING):
            await rescue(pool)
            pause = min(RESCUE_EVERY, await wake(pool) or RESCUE_EVERY)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stopping.wait()


async def rescue(pool: Pool) -> None:
    rescued = await queue.rescue(pool)
    await executors.forget_dead(pool)
    for run_id in rescued:
        log.warning("rescued a run from an executor that is gone", run=str(run_id))


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
            surplus = await retention.delete_surplus(pool, count) if count else 0
            if old or surplus:
                log.info("deleted runs", too_old=old, too_many=surplus)
        await asyncio.sleep(RETENTION_EVERY)
