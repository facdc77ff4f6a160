"""An executor that is told to stop finishes what it is at, and its runs go on elsewhere at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from backend.execution import executor
from backend.execution.scheduler import rescue
from backend.store import control, events, executors, queue, runs
from tests.execution.engine import Engine, assert_gap_free, before_the_gate, calls, cut_off, gates


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look that is taken now and then, a run that is released in silence fails a test."""
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


async def nodes_begun_after_resuming(engine: Engine, run_id: UUID) -> list[str]:
    happened = await engine.events(run_id)
    resumed = [event.type for event in happened].index("run.resumed")
    return [event.data["node_id"] for event in happened[resumed:] if event.type == "node.started"]


async def test_a_node_at_work_finishes_where_it_is_and_its_run_goes_on_elsewhere(engine: Engine, gated: UUID):
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        async with engine.worker():
            old.stopping.set()
            gates["g"].set()
            run, history = await engine.end_of(run_id)
            await old.leave()
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert history.outputs == {"y": ["before 1", "after 1"]}
    assert Counter(calls) == {"first": 1, "g": 1, "last": 2}
    assert await nodes_begun_after_resuming(engine, run_id) == ["last", "y"]
    assert_gap_free(await engine.events(run_id))


async def test_each_run_moves_as_soon_as_its_own_nodes_have_finished(engine: Engine):
    gates.update(soon=asyncio.Event(), late=asyncio.Event())
    soon = await engine.add("soon.out -> y.value", soon="gate", y="out")
    late = await engine.add("late.out -> y.value", late="gate", y="out")
    async with engine.worker() as old:
        waiting, holding = await engine.queue(soon), await engine.queue(late)
        await engine.until(waiting, before_the_gate)
        await engine.until(holding, before_the_gate)
        async with engine.worker():
            old.stopping.set()
            gates["soon"].set()
            run, _ = await engine.end_of(waiting)
            assert (run.status, run.attempt) == ("COMPLETED", 2)
            assert not old.task.done()
            gates["late"].set()
            run, _ = await engine.end_of(holding)
            assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert calls == ["soon", "late"]


async def test_a_run_between_two_nodes_moves_at_once(engine: Engine, gated: UUID, monkeypatch: pytest.MonkeyPatch):
    first_has_run, go_on = asyncio.Event(), asyncio.Event()
    append = events.append

    async def held(connection: Any, entries: Any) -> set[UUID]:
        if "first" in calls and not go_on.is_set():
            first_has_run.set()
            await go_on.wait()
        return await append(connection, entries)

    monkeypatch.setattr(events, "append", held)
    gates["g"].set()
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await first_has_run.wait()
        async with engine.worker():
            old.stopping.set()
            go_on.set()
            run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert Counter(calls) == {"first": 1, "g": 1, "last": 2}
    assert (await nodes_begun_after_resuming(engine, run_id))[0] == "g"
    assert_gap_free(await engine.events(run_id))


async def test_a_run_whose_last_node_was_at_work_ends_where_it_is(engine: Engine):
    gates["g"] = asyncio.Event()
    graph = await engine.add("x.result -> g.a", x="in", g="gate")
    async with engine.worker() as old:
        run_id = await engine.queue(graph, x=1)
        await engine.until(run_id, lambda event: event.data.get("value") == "before 1")
        old.stopping.set()
        gates["g"].set()
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 1)


async def test_a_run_claimed_at_the_last_moment_goes_back_untouched(engine: Engine, gated: UUID, monkeypatch):
    claimed, go_on = asyncio.Event(), asyncio.Event()
    claim = queue.claim

    async def held(*arguments: Any) -> Any:
        found = await claim(*arguments)
        if found:
            claimed.set()
            await go_on.wait()
        return found

    gates["g"].set()
    run_id = await engine.queue(gated, x=1)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "claim", held)
        async with engine.worker() as old:
            await claimed.wait()
            old.stopping.set()
            go_on.set()
            await old.leave()
    assert calls == []
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert [event.type for event in await engine.events(run_id)][:2] == ["run.queued", "run.started"]


async def test_what_is_queued_while_an_executor_leaves_is_left_to_the_others(engine: Engine, gated: UUID):
    async with engine.worker() as old:
        held = await engine.queue(gated, x=1)
        await engine.until(held, before_the_gate)
        old.stopping.set()
        queued = await engine.queue(gated, x=2)
        gates["g"].set()
    assert (await runs.get(engine.pool, queued)).attempt == 0


async def test_a_node_that_takes_too_long_is_cut_off_and_repeated_elsewhere(engine: Engine, gated: UUID, monkeypatch):
    monkeypatch.setattr(executor, "FINISH_WITHIN", 0.05)
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
    assert (await runs.get(engine.pool, run_id)).status == "QUEUED"
    gates["g"].set()
    async with engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert history.outputs == {"y": ["before 1", "after 1"]}
    assert Counter(calls) == {"first": 1, "g": 2, "last": 2}
    assert cut_off == ["g"]
    happened = await engine.events(run_id)
    assert_gap_free(happened)
    assert [event.type for event in happened].count("run.resumed") == 1


async def test_an_idle_executor_leaves_at_once(engine: Engine):
    async with engine.worker() as old:
        await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x=1)
        began = time.monotonic()
        await old.leave()
        assert time.monotonic() - began < 0.3
    assert await engine.pool.fetchval("SELECT count(*) FROM executors") == 0


async def test_a_run_is_stopped_while_its_executor_leaves(engine: Engine, gated: UUID):
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        old.stopping.set()
        await control.request_stop(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
        await old.leave()
    assert (run.status, run.attempt) == ("TERMINATED", 1)
    assert cut_off == ["g"]


async def test_nobody_rescues_the_runs_of_an_executor_that_leaves(engine: Engine, gated: UUID, monkeypatch):
    monkeypatch.setattr(executor, "HEARTBEAT_EVERY", 0.02)
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        old.stopping.set()
        await engine.pool.execute("UPDATE executors SET heartbeat_at = now() - interval '1 minute'")
        async with asyncio.timeout(10):
            while not await engine.pool.fetchval("SELECT heartbeat_at > now() - interval '1 second' FROM executors"):
                pass
        await rescue(engine.pool)
        assert (await runs.get(engine.pool, run_id)).executor == old.worker.id
        gates["g"].set()


async def test_the_end_of_the_database_does_not_hold_up_the_end_of_an_executor(engine, gated: UUID, monkeypatch):
    monkeypatch.setattr(executor, "HEARTBEAT_EVERY", 0.02)

    async def away(*_: Any) -> Any:
        raise ConnectionRefusedError

    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        began = time.monotonic()
        with monkeypatch.context() as patch:
            for module, statement in (
                (events, "append"), (executors, "beat"), (executors, "leave"), (queue, "claim"), (queue, "release"),
            ):  # fmt: skip
                patch.setattr(module, statement, away)
            await old.leave()
        assert time.monotonic() - began < executor.WRITE_WITHIN + executor.LEAVE_WITHIN + 1
    assert Counter(calls)["g"] == 1
    # It could not say that it left; that leaves the run to be rescued, or here to what it says at its second end.
    gates["g"].set()
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert_gap_free(await engine.events(run_id))


async def test_a_run_given_away_while_its_executor_leaves_is_left_alone(engine: Engine, gated: UUID):
    async with engine.worker() as old:
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        old.stopping.set()
        await engine.pool.execute("UPDATE runs SET attempt = 2, executor = $1", UUID(int=1))
        length = len(await engine.events(run_id))
        gates["g"].set()
    run = await runs.get(engine.pool, run_id)
    assert (run.status, run.attempt, run.executor) == ("RUNNING", 2, UUID(int=1))
    assert len(await engine.events(run_id)) == length
