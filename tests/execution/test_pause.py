"""A run that is paused rests, with all that are below it, until it is resumed: then it goes on and repeats nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest

from backend.execution import executor
from backend.execution.run import Run
from backend.execution.scheduler import rescue
from backend.store import control, events, queue, retention, reviews, runs, waking
from backend.store.events import Entry, Event
from backend.store.reviews import Decision
from backend.store.runs import StoredRun
from tests.execution.agents import OUT, REVIEW, TIMER, calling, gated_child, node, parked_after
from tests.execution.engine import Engine, assert_gap_free, before_the_gate, calls, gates
from tests.execution.test_recovery import die_at_the_gate


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


async def rests(engine: Engine, run_id: UUID) -> StoredRun:
    """The run, once it says that it is paused."""
    await engine.until(run_id, lambda event: event.type == "run.paused")
    run = await runs.get(engine.pool, run_id)
    assert (run.paused, run.executor) == (True, None)
    return run


async def types(engine: Engine, run_id: UUID) -> list[str]:
    return [event.type for event in await engine.events(run_id)]


async def another_run(engine: Engine) -> None:
    """Have a run done: whoever is there would by now have claimed what comes before it."""
    run, _ = await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x=1)
    assert run.status == "COMPLETED"


async def caller(engine: Engine) -> tuple[UUID, UUID]:
    """A run of a calling agent that waits for its child, which is at its gate."""
    gates["g"] = asyncio.Event()
    run_id = await engine.queue(await calling(engine, await gated_child(engine)), x=1)
    await engine.until(run_id, parked_after("run.output"))
    child = await engine.pool.fetchval("SELECT id FROM runs WHERE parent_run_id = $1", run_id)
    return run_id, child


async def test_a_queued_run_rests_and_begins_when_it_is_resumed(engine: Engine, gated: UUID):
    gates["g"].set()
    run_id = await engine.queue(gated, x=1)
    await control.pause(engine.pool, run_id)
    async with engine.worker():
        await another_run(engine)
        assert await types(engine, run_id) == ["run.queued", "run.paused"]
        await control.resume(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt, run.paused) == ("COMPLETED", 1, False)
    assert_gap_free(await engine.events(run_id))


async def test_the_nodes_of_a_paused_run_finish_and_none_begins_until_it_is_resumed(engine: Engine, gated: UUID):
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await control.pause(engine.pool, run_id)
        await another_run(engine)
        assert (await runs.get(engine.pool, run_id)).executor, "it has not let go before its node has finished"
        gates["g"].set()
        run = await rests(engine, run_id)
        assert (run.status, Counter(calls)) == ("QUEUED", {"first": 1, "g": 1, "last": 1})
        await another_run(engine)
        await control.resume(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 2, {"y": ["before 1", "after 1"]})
    assert Counter(calls) == {"first": 1, "g": 1, "last": 2}
    assert_gap_free(await engine.events(run_id))


async def test_a_run_that_is_resumed_before_it_rests_goes_on(engine: Engine, gated: UUID):
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await control.pause(engine.pool, run_id)
        await control.resume(engine.pool, run_id)
        gates["g"].set()
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.paused, Counter(calls)["g"]) == ("COMPLETED", False, 1)


async def test_a_run_whose_time_comes_while_it_is_paused_goes_on_when_it_is_resumed(engine: Engine):
    graph = await engine.add("t.output_message -> y.value", t=node(TIMER, seconds=1), y=OUT)
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "node.waiting")
        await control.pause(engine.pool, run_id)
        assert (await rests(engine, run_id)).status == "RUNNING"
        await engine.pool.execute("SELECT pg_sleep(greatest(0, extract(epoch FROM wake_at - now()))) FROM runs")
        await waking.wake_due(engine.pool)
        await another_run(engine)
        assert (await runs.get(engine.pool, run_id)).status == "QUEUED"
        await control.resume(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["timer finished"]})
    assert_gap_free(await engine.events(run_id))


async def test_a_decision_is_taken_while_its_run_is_paused_and_has_its_consequences_later(engine: Engine):
    graph = await engine.add("r.approved_data -> y.value", r=node(REVIEW, data=1, name="?"), y=OUT)
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, parked_after("node.waiting"))
        await control.pause(engine.pool, run_id)
        assert (await rests(engine, run_id)).status == "REVIEW"
        [review] = await reviews.of_run(engine.pool, run_id)
        await reviews.decide(engine.pool, [Decision(review.id, True, None, False, None)])
        await waking.wake(engine.pool, run_id)
        await another_run(engine)
        assert (await types(engine, run_id))[-1] == "run.paused"
        await control.resume(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": [1]})


async def test_a_run_rests_with_those_below_it_and_goes_on_with_them(engine: Engine):
    async with engine.worker():
        run_id, child = await caller(engine)
        await control.pause(engine.pool, run_id)
        await rests(engine, run_id)
        gates["g"].set()
        assert (await rests(engine, child)).status == "QUEUED"
        await another_run(engine)
        await control.resume(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"z": ["before 1", "after 1"]})
    assert Counter(calls)["g"] == 1
    for id in run_id, child:
        assert_gap_free(await engine.events(id))


async def test_a_run_that_a_paused_one_begins_rests_too(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    began, go_on = asyncio.Event(), asyncio.Event()
    insert_child = runs.insert_child

    async def held(*arguments: object) -> None:
        began.set()
        await go_on.wait()
        await insert_child(*arguments)

    monkeypatch.setattr(runs, "insert_child", held)
    gates["g"] = asyncio.Event()
    gates["g"].set()
    async with engine.worker():
        run_id = await engine.queue(await calling(engine, await gated_child(engine)), x=1)
        await began.wait()
        await control.pause(engine.pool, run_id)
        go_on.set()
        await rests(engine, run_id)
        await another_run(engine)
        assert calls == []
        await control.resume(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
    assert run.status == "COMPLETED"


async def test_a_run_that_is_paused_while_its_executor_leaves_is_taken_up_by_no_other(engine: Engine, gated: UUID):
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        async with engine.worker():
            await control.pause(engine.pool, run_id)
            old.stopping.set()
            gates["g"].set()
            await rests(engine, run_id)
            await old.leave()
            await another_run(engine)
            assert calls.count("last") == 1
            await control.resume(engine.pool, run_id)
            run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 2)


async def test_a_run_is_paused_once(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    for _ in range(2):
        await control.pause(engine.pool, run_id)
    assert await types(engine, run_id) == ["run.queued", "run.paused"]
    gates["g"].set()
    async with engine.worker():
        for _ in range(2):
            await control.resume(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
    assert run.attempt == 1
    await control.pause(engine.pool, run_id)
    assert not (await runs.get(engine.pool, run_id)).paused, "it has ended"
    assert (await types(engine, run_id))[-1] == "run.completed"


async def test_a_pause_that_the_executor_did_not_hear_of_is_found(engine: Engine, gated: UUID, monkeypatch):
    monkeypatch.setattr(executor, "HEARTBEAT_EVERY", 0.02)
    told = asyncio.Event()
    hand_over = Run.hand_over

    def noted(self: Run) -> None:
        hand_over(self)
        told.set()

    monkeypatch.setattr(Run, "hand_over", noted)
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await engine.pool.execute("UPDATE runs SET paused = true WHERE id = $1", run_id)
        await told.wait()
        gates["g"].set()
        await rests(engine, run_id)


@pytest.mark.parametrize("first", ["pause", "stop"])
async def test_a_run_that_is_stopped_ends_though_it_is_paused(engine: Engine, first: str):
    async with engine.worker():
        run_id, child = await caller(engine)
        if first == "pause":
            await control.pause(engine.pool, run_id)
            await control.request_stop(engine.pool, run_id)
        else:
            await control.request_stop(engine.pool, run_id)
            await control.pause(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
        stopped, _ = await engine.end_of(child)
    assert (run.status, stopped.status) == ("TERMINATED", "TERMINATED")
    assert not run.paused
    assert_gap_free(await engine.events(run_id))


async def test_a_resting_run_is_stopped_without_any_executor(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    await control.pause(engine.pool, run_id)
    run = await control.request_stop(engine.pool, run_id)
    assert run
    assert (run.status, run.paused) == ("TERMINATED", False)
    assert await types(engine, run_id) == ["run.queued", "run.paused", "run.terminated"]


async def test_a_run_whose_executor_is_killed_before_it_rests_waits_until_it_is_resumed(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    await die_at_the_gate(engine, run_id)
    await control.pause(engine.pool, run_id)
    await rescue(engine.pool)
    gates["g"].set()
    async with engine.worker():
        await another_run(engine)
        assert (await types(engine, run_id))[-2:] == ["run.rescued", "run.paused"]
        await control.resume(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["before 1", "after 1"]})
    assert_gap_free(await engine.events(run_id))


@pytest.mark.parametrize("executor_is_first", [True, False])
async def test_a_run_that_is_let_go_at_the_moment_of_its_pause_rests_once(engine: Engine, executor_is_first: bool):
    run_id = await engine.queue(await engine.add("x.result -> y.value", x="in", y="out"), x=1)
    [run] = await queue.claim(engine.pool, uuid4(), 1)
    parked = Entry(run_id, run.attempt, [Event(2, "run.waiting", '{"status": "RUNNING"}')], "RUNNING")
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    async with engine.pool.acquire() as holding, holding.transaction():
        await holding.execute("SELECT FROM runs FOR UPDATE")
        acts = [lambda: events.append(engine.pool, [parked]), lambda: control.pause(engine.pool, run_id)]
        tasks = [asyncio.create_task(acts[not executor_is_first]())]
        while not await engine.pool.fetchval(waits):
            pass
        tasks.append(asyncio.create_task(acts[executor_is_first]()))
        while await engine.pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") < 2:
            pass
    await asyncio.gather(*tasks)
    await rests(engine, run_id)
    assert sorted(await types(engine, run_id)) == ["run.paused", "run.queued", "run.waiting"]
    assert_gap_free(await engine.events(run_id))


async def test_a_run_that_an_executor_leaves_without_letting_it_rest_rests_all_the_same(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    await die_at_the_gate(engine, run_id)
    await control.pause(engine.pool, run_id)
    await queue.release(engine.pool, (await runs.get(engine.pool, run_id)).executor)
    await rests(engine, run_id)
    assert_gap_free(await engine.events(run_id))


async def test_a_run_that_has_ended_stays_while_the_one_that_began_it_may_ask_for_it(engine: Engine):
    async with engine.worker():
        run_id, child = await caller(engine)
        await control.pause(engine.pool, run_id)
        gates["g"].set()
        await rests(engine, child)
        await control.resume(engine.pool, child)
        await engine.end_of(child)
        assert not await retention.delete_run(engine.pool, child)
        await control.resume(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
        assert await retention.delete_run(engine.pool, child)
    assert (run.status, calls.count("g")) == ("COMPLETED", 1)
