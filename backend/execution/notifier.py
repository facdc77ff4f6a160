"""The notifier process: tells webhooks what happened to runs. Any number of notifiers, on any number of machines."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from structlog.contextvars import bound_contextvars

from backend.execution.webhook_message import body
from backend.execution.webhook_sender import Sender
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import deliveries, webhooks
from backend.store.address import database_address
from backend.store.connection import PASSING, Pool, open_pool
from backend.store.deliveries import Due
from backend.store.events import ENDS
from backend.store.listener import listen
from backend.store.sealing import sealer

# Deliveries under way at a time, in all and of one lane: a slow receiver takes no more places than that from others.
AT_ONCE = 200
IN_LANE = 8
# Seconds after which it is looked for what is due even if no notification came.
LOOK_EVERY = 5.0
# Seconds, once the notifier is told to stop, for what is under way; the rest is left to the next.
FINISH_WITHIN = 5.0
LEAVE_WITHIN = 0.75
# One thread for each name that is looked up: name servers, too, are slow for some and not for others.
RESOLVERS = 64

log = structlog.get_logger()


class Notifier(AsyncAppProcess):
    """Attempts what is due; told to stop, it finishes what is under way."""

    name = "notifier"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        seal = sealer(settings)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver"))
        pool = await open_pool(settings, size=4)
        sender = Sender(settings.trusted_hosts, seal)
        try:
            self.ready()
            await Courier(pool, sender).work(database_address(settings), stopping)
        finally:
            await sender.close()
            with suppress(TimeoutError):  # a database that does not answer; the pool then cuts its connections
                async with asyncio.timeout(LEAVE_WITHIN):
                    await pool.close()


class Courier:
    """What a notifier does, given a database."""

    def __init__(self, pool: Pool, sender: Sender) -> None:
        self._pool = pool
        self._sender = sender
        self._under_way: dict[asyncio.Task[None], Due] = {}
        self._busy: Counter[UUID] = Counter()
        # Set when there may be something to claim.
        self._look = asyncio.Event()
        self._leaving = False

    async def work(self, dsn: str, stopping: asyncio.Event) -> None:
        """Deliver until `stopping` is set, then finish, or give back, what is under way."""
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(listen(dsn, (webhooks.DUE,), lambda _, __: self._look.set()))
            claiming = group.create_task(self._claim_until_leaving(group))
            await stopping.wait()
            self._leaving = True
            self._look.set()
            await claiming
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=FINISH_WITHIN)
            await self._give_back()
            listening.cancel()

    async def _claim_until_leaving(self, group: asyncio.TaskGroup) -> None:
        while not self._leaving:
            self._look.clear()
            pause = LOOK_EVERY
            try:
                # In this order: what becomes due between the two is claimed.
                pause = min(LOOK_EVERY, await deliveries.next_due(self._pool) or LOOK_EVERY)
                await self._claim(group)
            except PASSING as error:
                log.warning("the database is away", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        places = AT_ONCE - len(self._under_way)
        if places <= 0:
            return
        claimed = await deliveries.claim(self._pool, self._busy, in_lane=IN_LANE, at_most=places)
        ended = [due.run_id for due in claimed if due.run_id and due.event_type in ENDS]
        outputs = await deliveries.outputs(self._pool, ended) if ended else {}
        for due in claimed:
            self._busy[due.lane] += 1
            with bound_contextvars(**_facts(due)):  # for all that the task logs
                task = group.create_task(self._deliver(due, outputs.get(due.run_id, ()) if due.run_id else ()))
            self._under_way[task] = due
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        due = self._under_way.pop(task)
        self._busy[due.lane] -= 1
        if not self._busy[due.lane]:
            del self._busy[due.lane]
        self._look.set()

    async def _deliver(self, due: Due, outputs: Sequence[dict[str, Any] | None]) -> None:
        """Whatever goes wrong here: the delivery is due again when its lease is over."""
        try:
            result = await self._sender.attempt(due, body(due, outputs))
            log.debug("told a webhook", type=due.event_type, status=result.response_status, error=result.error)
            if reason := await deliveries.record(self._pool, due, result):
                log.warning("a webhook was switched off", reason=reason)
        except PASSING as error:
            log.warning("the database is away", error=str(error))
        except Exception:  # that of one delivery is not to end the others
            log.exception("a delivery failed by a mistake of ours")

    async def _give_back(self) -> None:
        left = dict(self._under_way)
        for task in left:
            task.cancel()
        with suppress(TimeoutError, *PASSING):
            async with asyncio.timeout(LEAVE_WITHIN):
                await deliveries.release(self._pool, list(left.values()))


def _facts(due: Due) -> dict[str, str]:
    facts = {"delivery": due.id, "webhook": due.webhook_id, "run": due.run_id, "request_id": due.request_id}
    return {name: str(value) for name, value in facts.items() if value}
