"""Runs outlive their executor: nothing finished runs again, nothing is lost, nobody writes to another's run."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from backend.execution.executor import Worker
from backend.execution.scheduler import rescue
from backend.store import runs
from backend.store.events import Event
from tests.execution.engine import Engine, calls, gates


def before_the_gate(event: Event) -> bool:
    return event.type == "run.output"


@pytest.fixture
async def gated(engine: Engine) -> UUID:
    """A graph that works through `first`, then waits at a gate that has put out one value."""
    gates["g"] = asyncio.Event()
    return await engine.add(
        "x.result -> first.a", "first.out -> g.a", "g.out -> last.a", "last.out -> y.value",
        x="in", first="pass", g="gate", last="pass", y="out",
    )  # fmt: skip


def assert_gap_free(events: list[Event]) -> None:
    assert [event.number for event in events] == list(range(1, len(events) + 1))


async def test_a_stopped_executor_hands_its_runs_over_in_the_middle(engine: Engine, gated: UUID):
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
    events = await engine.events(run_id)
    assert_gap_free(events)
    assert [event.type for event in events].count("run.resumed") == 1


async def test_the_runs_of_a_dead_executor_go_on_in_another_without_repeating_a_finished_node(engine, gated):
    worker = Worker(engine.pool, engine.settings)
    await worker.join()
    dying = asyncio.create_task(worker.work(engine.settings.database_url, asyncio.Event()))
    run_id = await engine.queue(gated, x=1)
    await engine.until(run_id, before_the_gate)
    dying.cancel()
    await asyncio.wait([dying])
    await engine.pool.execute("UPDATE executors SET heartbeat_at = now() - interval '1 minute'")
    await rescue(engine.pool)
    gates["g"].set()
    async with engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["before 1", "after 1"]})
    assert Counter(calls)["first"] == 1
    assert_gap_free(await engine.events(run_id))


async def test_an_executor_that_wakes_up_after_its_run_was_given_away_writes_nothing(engine: Engine, gated: UUID):
    async with engine.worker(num_graph_workers=1):
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await engine.pool.execute("UPDATE runs SET attempt = 2, executor = $1", UUID(int=1))
        length = len(await engine.events(run_id))
        gates["g"].set()
        # It has room for one run: that this one ends shows that it let go of the other.
        _, history = await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x="next")
    assert history.outputs == {"y": ["next"]}
    assert len(await engine.events(run_id)) == length


async def test_a_run_stopped_while_its_executor_was_dead_ends_when_it_is_taken_up(engine: Engine, gated: UUID):
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await engine.pool.execute("UPDATE runs SET stop_requested = true WHERE id = $1", run_id)
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert run.status == "TERMINATED"


async def test_many_runs_on_several_executors_each_end_once(engine: Engine):
    graph = await engine.add("x.result -> e.a", "e.out -> p.a", "p.out -> y.value", x="in", e="each", p="pass", y="out")
    async with engine.worker(num_graph_workers=5), engine.worker(num_graph_workers=5):
        run_ids = [await engine.queue(graph, x=[n, n]) for n in range(60)]
        ended = [await engine.end_of(run_id) for run_id in run_ids]
    assert [history.outputs for _, history in ended] == [{"y": [n, n]} for n in range(60)]
    assert all(run.attempt == 1 for run, _ in ended)
