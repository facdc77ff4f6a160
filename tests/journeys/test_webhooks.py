"""Webhooks, while a real notifier is killed in the middle of telling one."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode

from backend.store import control, deliveries, webhooks
from backend.store.deliveries import StoredDelivery
from backend.store.identifiers import new_id
from backend.store.sealing import Sealer
from backend.store.users import DEFAULT_USER
from tests.execution.engine import Engine
from tests.journeys.conftest import Start
from tests.journeys.environment import until
from tests.journeys.stub import Stub


async def test_what_a_killed_notifier_was_telling_is_told_by_the_next(engine: Engine, start: Start, stub: Stub):
    key, id = os.urandom(32), new_id()
    sealed = Sealer(key).seal(b"secret", webhooks.sealed_for(id))
    await webhooks.insert(engine.pool, id, DEFAULT_USER, stub.address, ["run.terminated"], sealed)
    run_id = await engine.queue(await engine.add(x="in"))
    await control.request_stop(engine.pool, run_id)
    stub.gate.clear()
    with start("notifier", ENCRYPTION_KEY=b64encode(key).decode()) as killed:
        await asyncio.to_thread(until, lambda: len(stub.received) == 1)
        killed.kill()
        stub.gate.set()
    assert [(each.status, each.attempts) for each in await of(engine, id)] == [("PENDING", 0)]
    # As if the lease were over.
    await engine.pool.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
    with start("notifier", ENCRYPTION_KEY=b64encode(key).decode()) as successor:
        await asyncio.to_thread(until, lambda: len(stub.received) == 2)
        successor.terminate()  # it finishes what is under way
        assert await asyncio.to_thread(successor.wait, 20) == 143
    assert [(each.status, each.attempts) for each in await of(engine, id)] == [("DELIVERED", 1)]
    (first, said), (second, said_again) = stub.received
    assert (first["webhook-id"], said) == (second["webhook-id"], said_again)


async def of(engine: Engine, webhook_id: object) -> list[StoredDelivery]:
    return await deliveries.page(engine.pool, webhook_id, limit=10)
