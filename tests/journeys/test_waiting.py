"""Runs that wait, while real executors are killed under them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from backend.store import graphs, reviews, runs, waking
from backend.store.reviews import Decision
from tests.execution.agents import OUT, REVIEW, TIMER, call, node, parked_after
from tests.execution.engine import Engine, assert_gap_free
from tests.journeys.conftest import Start
from tests.journeys.environment import until
from tests.journeys.stub import INPUT, Stub, requests_one_by_one


async def test_a_caller_outlives_the_kill_of_its_executor_and_begins_no_second_child(
    engine: Engine, start: Start, stub: Stub
):
    stub.gate.clear()
    child = uuid4()
    await graphs.insert(engine.pool, child, 1, "requests", requests_one_by_one(stub))
    parent = await engine.add(
        "items.result -> c.items", "c.answers -> y.value", items=node(INPUT), c=call(child), y=node(OUT)
    )  # fmt: skip
    with start("scheduler"), start("executor") as killed:
        run_id = await engine.queue(parent, items=["a"])
        await asyncio.to_thread(until, lambda: len(stub.received) == 1)
        killed.kill()
        stub.gate.set()
        with start("executor"):
            run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": [{"ok": True}]})
    rows = await engine.pool.fetch("SELECT attempt, status FROM runs WHERE parent_run_id = $1", run_id)
    assert [tuple(row) for row in rows] == [(2, "COMPLETED")]
    assert_gap_free(await engine.events(run_id))


async def test_a_timer_outlives_the_kill_of_its_executor_and_waits_only_for_what_is_left(engine: Engine, start: Start):
    graph = await engine.add("t.output_message -> y.value", t=node(TIMER, seconds=6), y=node(OUT))
    with start("scheduler"), start("executor") as killed:
        run_id = await engine.queue(graph)
        await engine.until(run_id, parked_after("node.waiting"))
        killed.kill()
        with start("executor"):
            run, _ = await engine.end_of(run_id)
    happened = await engine.events(run_id)
    [waiting] = [event for event in happened if event.type == "node.waiting"]
    late = happened[-1].created_at - datetime.fromisoformat(waiting.data["until"])
    assert (run.status, 0 <= late.total_seconds() < 2) == ("COMPLETED", True)


@pytest.fixture
def wrong_clock(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A file that says how far the clock of a process is ahead, and what such a process needs in its environment."""
    for library in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"):
        ahead = tmp_path / "ahead"
        ahead.write_text("+0")
        lies = {"FAKETIME_TIMESTAMP_FILE": str(ahead), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return ahead, {"LD_PRELOAD": str(library), **lies}
    pytest.skip("libfaketime is not installed (on Debian: apt-get install faketime)")


async def test_an_executor_whose_clock_jumps_waits_as_long_as_ever_and_is_not_taken_for_dead(
    engine: Engine, start: Start, wrong_clock: tuple[Path, dict[str, str]]
):
    ahead, lies = wrong_clock
    graphs = {s: await engine.add("t.output_message -> y.value", t=node(TIMER, seconds=s), y=OUT) for s in (7, 2)}
    begun: list[tuple[int, UUID]] = []
    with start("scheduler"), start("executor", **lies):
        for jump in ("+1h", "-1h", "+0"):
            for seconds, graph in graphs.items():  # the first is parked, the second stays with the executor
                begun.append((seconds, await engine.queue(graph)))
                await engine.until(begun[-1][1], lambda event: event.type == "node.waiting")
            ahead.write_text(jump)
        ended = [(seconds, *await engine.end_of(run_id)) for seconds, run_id in begun]
    for seconds, run, _ in ended:
        assert run.status == "COMPLETED"
        assert seconds <= (run.ended_at - run.started_at).total_seconds() < seconds + 60
        types = [event.type for event in await engine.events(run.id)]
        assert types.count("run.resumed") == types.count("run.waiting"), "only its time woke it"
        assert "run.rescued" not in types


async def test_a_decision_may_come_when_there_is_no_executor_at_all(engine: Engine, start: Start):
    graph = await engine.add(
        "r.approved_data -> y.value", r=node(REVIEW, data="draft", name="n"), y=node(OUT)
    )  # fmt: skip
    with start("executor") as killed:
        run_id = await engine.queue(graph)
        await engine.until(run_id, parked_after("node.waiting"))
        killed.kill()
    assert (await runs.get(engine.pool, run_id)).status == "REVIEW"
    [review] = await reviews.of_run(engine.pool, run_id)
    await reviews.decide(engine.pool, [Decision(review.id, True, None, False, None)])
    await waking.wake(engine.pool, run_id)
    with start("executor"):
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["draft"]})
