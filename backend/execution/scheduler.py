"""The scheduler process: gives the runs of dead executors to living ones, wakes those whose time has come, and deletes
what is too old to keep."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog

from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import executors, queue, runs, waking
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
            await keep_house(pool, settings.run_retention_days, stopping)


async def keep_house(pool: Pool, retention_days: int, stopping: asyncio.Event) -> None:
    last_retention = -RETENTION_EVERY
    while not stopping.is_set():
        pause = RESCUE_EVERY
        with suppress(*PASSING):
            await rescue(pool)
            pause = min(RESCUE_EVERY, await wake(pool) or RESCUE_EVERY)
            if retention_days and time.monotonic() - last_retention > RETENTION_EVERY:
                last_retention = time.monotonic()
                await delete_old(pool, retention_days)
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


async def delete_old(pool: Pool, days: int) -> None:
    """Delete in batches, so that no transaction holds many rows for long."""
    total = 0
    while deleted := await runs.delete_ended_before(pool, days):
        total += deleted
    if total:
        log.info("deleted old runs", runs=total, older_than_days=days)
