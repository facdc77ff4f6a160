"""Waits for a time: they are written down, outlive the executor, and keep none busy if they are long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from backend.execution import executor
from backend.execution import run as run_module
from backend.execution.scheduler import keep_house, wake
from backend.store import control, runs
from tests.execution.agents import OUT, TIMER, node, parked_after
from tests.execution.engine import Engine, assert_gap_free


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


async def timer(engine: Engine, **pins: object):
    return await engine.add("t.output_message -> y.value", t=node(TIMER, **pins), y=OUT)


@asynccontextmanager
async def house_kept(engine: Engine) -> AsyncIterator[None]:
    """A scheduler at work."""
    stopping = asyncio.Event()
    keeping = asyncio.create_task(keep_house(engine.pool, stopping))
    yield
    stopping.set()
    await keeping


async def test_a_short_wait_stays_where_it_is(engine: Engine):
    began = time.monotonic()
    async with engine.worker():
        run, history = await engine.run(await timer(engine, seconds=1))
    assert time.monotonic() - began > 1
    assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 1, {"y": ["timer finished"]})


async def test_a_long_wait_leaves_its_place_to_others(engine: Engine):
    async with engine.worker(num_graph_workers=1):
        waiting = await engine.queue(await timer(engine, hours="1"))
        await engine.until(waiting, parked_after("node.waiting"))
        run, _ = await engine.run(await timer(engine))
        assert run.status == "COMPLETED"
    run = await runs.get(engine.pool, waiting)
    due = await engine.pool.fetchval("SELECT wake_at - created_at FROM runs WHERE id = $1", waiting)
    assert (run.status, run.executor) == ("RUNNING", None)
    assert 3590 < due.total_seconds() < 3610


async def test_who_waits_for_the_place_of_a_run_hears_when_it_is_stopped(engine: Engine):
    async with engine.worker():
        run_id = await engine.queue(await timer(engine, hours="1"))
        await engine.until(run_id, parked_after("node.waiting"))
    heard = asyncio.Event()
    async with engine.pool.acquire() as connection:
        await connection.add_listener(runs.QUEUED, hear := lambda *_: heard.set())
        await control.request_stop(engine.pool, run_id)
        async with asyncio.timeout(20):
            await heard.wait()
        await connection.remove_listener(runs.QUEUED, hear)


async def test_a_wait_goes_on_in_another_executor_for_what_is_left_of_it(engine: Engine):
    graph = await timer(engine, seconds=2)
    async with engine.worker() as old:
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "node.waiting")
        began = time.monotonic()
        await old.leave()
    assert time.monotonic() - began < 1, "an executor that leaves does not wait for a timer"
    async with house_kept(engine), engine.worker():
        run, history = await engine.end_of(run_id)
    assert history.outputs == {"y": ["timer finished"]}
    happened = await engine.events(run_id)
    [waiting] = [event for event in happened if event.type == "node.waiting"]
    late = happened[-1].created_at - datetime.fromisoformat(waiting.data["until"])
    assert (run.attempt, 0 <= late.total_seconds() < 0.5) == (2, True)
    assert_gap_free(happened)


async def test_a_run_is_woken_when_its_time_has_come_and_not_before(engine: Engine):
    async with engine.worker():
        run_id = await engine.queue(await timer(engine, seconds=30))
        await engine.until(run_id, parked_after("node.waiting"))
    assert 25 < await wake(engine.pool) < 30
    assert (await runs.get(engine.pool, run_id)).status == "RUNNING"
    await engine.pool.execute("UPDATE runs SET wake_at = now()")
    assert await wake(engine.pool) is None
    assert (await runs.get(engine.pool, run_id)).status == "QUEUED"


async def test_a_run_that_is_woken_too_early_waits_for_what_is_left(engine: Engine):
    async with engine.worker():
        run_id = await engine.queue(await timer(engine, seconds=30))
        await engine.until(run_id, parked_after("node.waiting"))
        await engine.pool.execute("UPDATE runs SET wake_at = now()")
        await wake(engine.pool)
        await engine.until(run_id, parked_after("run.resumed"))
    assert not any(event.type == "run.output" for event in await engine.events(run_id))
    assert 25 < await wake(engine.pool) < 30


async def test_a_repeated_wait_is_resumed_where_it_was(engine: Engine):
    async with engine.worker():
        run_id = await engine.queue(await timer(engine, seconds=1, repeat=2))
        await engine.until(run_id, lambda event: event.type == "run.output")
    async with house_kept(engine), engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.attempt, history.outputs) == (2, {"y": ["timer finished"] * 2})
    assert sum(event.type == "node.waiting" for event in await engine.events(run_id)) == 2


async def test_the_time_a_node_waits_does_not_count_towards_its_limit(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_module, "NODE_TIME_LIMIT", 0.5)
    async with engine.worker():
        run, _ = await engine.run(await timer(engine, seconds=1))
    assert run.status == "COMPLETED"
