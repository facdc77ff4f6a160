"""How the nodes of a graph are run: not at all, for so long, and again after a failure."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from backend.execution import executor
from backend.execution.executor import Worker
from backend.execution.outside import NodeOutside
from backend.execution.scheduler import rescue
from backend.store import control, waking
from backend.store.events import Event
from tests.execution.agents import OUT, TIMER, call, gated_child, node, parked_after
from tests.execution.engine import Engine, assert_gap_free, calls, gates

AT_ONCE = {"delay_seconds": 0}


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


def retried(block_id: str, times: int, retry: dict[str, Any] = AT_ONCE, **input_default: Any) -> dict[str, Any]:
    return {"block_id": block_id, "settings": {"retry": {"times": times, **retry}}, "input_default": input_default}


def disabled(block_id: str) -> dict[str, Any]:
    return {"block_id": block_id, "settings": {"disabled": True}}


def retries(events: list[Event]) -> list[Event]:
    return [event for event in events if event.type == "node.waiting" and event.data["for"] == "retry"]


def before_try(number: int):
    """For `Engine.until`: the failure before this try is written."""
    seen: list[Event] = []

    def happened(event: Event) -> bool:
        seen.append(event)
        return len(retries(seen)) == number - 1

    return happened


async def die_before_try(engine: Engine, run_id: UUID, number: int) -> None:
    worker = Worker(engine.pool, engine.settings)
    await worker.join()
    dying = asyncio.create_task(worker.work(engine.settings.database_url, asyncio.Event()))
    await engine.until(run_id, before_try(number))
    dying.cancel()
    await asyncio.wait([dying])
    await engine.pool.execute("DELETE FROM executors")
    await rescue(engine.pool)
    await worker.leave()  # nothing is left to say; but in this process its nodes would go on


# Disabled


async def test_a_disabled_node_never_runs_and_whoever_waits_for_it_is_told_so(engine: Engine):
    graph = await engine.add(
        "x.result -> off.a", "off.out -> p.a", "x.result -> y.value",
        x="in", off=disabled("pass"), p="pass", y="out",
    )  # fmt: skip
    async with engine.worker():
        run, history = await engine.run(graph, x=1)
    assert (run.status, history.outputs, calls) == ("COMPLETED", {"y": [1]}, [])
    told = {each["node_id"]: each["reason"] for each in history.never_ran}
    assert told == {"off": "is disabled", "p": "waits for the pin `a`: its only source, a node (off), is disabled"}


async def test_an_error_that_leads_to_a_disabled_node_is_not_handled(engine: Engine):
    graph = await engine.add("f.error -> off.a", f="fail", off=disabled("pass"))
    async with engine.worker():
        run, _ = await engine.run(graph)
    assert run.status == "FAILED"


async def test_a_run_does_not_need_the_block_of_a_disabled_node(engine: Engine):
    graph = await engine.add("x.result -> y.value", x="in", y="out", off=disabled("no such block"))
    async with engine.worker():
        run, history = await engine.run(graph, x=1)
    assert (run.status, history.never_ran) == ("COMPLETED", [{"node_id": "off", "reason": "is disabled"}])


async def test_a_disabled_input_and_a_disabled_note_change_nothing(engine: Engine):
    note = disabled("cc10ff7b-7753-4ff2-9af6-9399b1a7eddc")
    graph = await engine.add("x.result -> y.value", x=disabled("in"), y="out", n=note)
    async with engine.worker():
        run, history = await engine.run(graph, x=1)
    assert (run.status, history.outputs) == ("COMPLETED", {})
    assert {each["node_id"] for each in history.never_ran} == {"x", "y"}


# Timeouts


async def test_a_node_that_takes_longer_than_its_settings_say_fails(engine: Engine):
    gates["g"] = asyncio.Event()
    graph = await engine.add(g={"block_id": "gate", "settings": {"timeout_seconds": 0.05}})
    async with engine.worker():
        run, _ = await engine.run(graph)
    assert run.error == "GateBlock (g) failed: took longer than 0.05 s"


async def test_the_time_of_a_node_begins_anew_with_each_try(engine: Engine):
    gates["g"] = asyncio.Event()
    settings = {"timeout_seconds": 0.05, "retry": {"times": 2, "delay_seconds": 0.05}}
    graph = await engine.add("g.error -> y.value", g={"block_id": "gate", "settings": settings}, y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["took longer than 0.05 s"]})
    assert calls == ["g"] * 3
    assert history.node_runs[1].outputs["out"] == ["before None"]


async def test_what_a_node_waits_for_outside_does_not_count_towards_its_time(engine: Engine):
    child = await gated_child(engine)
    gates["g"] = asyncio.Event()
    graph = await engine.add("c.y -> z.value", c=call(child) | {"settings": {"timeout_seconds": 0.5}}, z=OUT)
    timer = {"block_id": TIMER, "input_default": {"seconds": 1}, "settings": {"timeout_seconds": 0.5}}
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "run.output")
        run, _ = await engine.run(await engine.add(t=timer))
        assert run.status == "COMPLETED"
        gates["g"].set()
        run, _ = await engine.end_of(run_id)
    assert run.status == "COMPLETED"


# Retry


async def test_a_node_is_given_up_after_as_many_tries_and_only_the_last_error_comes_out(engine: Engine):
    graph = await engine.add("f.error -> y.value", "f.out -> p.a", f=retried("flaky", 2, a=9), y="out", p="pass")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["try 3 failed"]})
    node_run = history.node_runs[1]
    assert (node_run.status, node_run.retries, node_run.error) == ("FAILED", 2, "try 3 failed")
    events = await engine.events(run.id)
    assert [event.data["error"] for event in retries(events)] == ["try 1 failed", "try 2 failed"]
    assert [event.type for event in events].count("node.failed") == 1
    assert_gap_free(events)


async def test_a_node_that_comes_to_work_goes_on_as_if_nothing_had_been(engine: Engine):
    graph = await engine.add("f.out -> y.value", f=retried("flaky", 5, a=2), y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, run.error) == ("COMPLETED", None)
    assert history.outputs == {"y": ["try 1", "done"]}, "what an earlier try put out stands and is not repeated"
    assert (history.node_runs[1].status, history.node_runs[1].retries) == ("COMPLETED", 2)


async def test_the_time_between_two_tries_grows_up_to_its_most(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []
    before_retry = NodeOutside.before_retry

    async def noted(self: NodeOutside, seconds: float, error: str) -> None:
        waited.append(seconds)
        await before_retry(self, 0, error)

    monkeypatch.setattr(NodeOutside, "before_retry", noted)
    retry = {"delay_seconds": 10, "factor": 3, "max_delay_seconds": 50}
    async with engine.worker():
        await engine.run(await engine.add(f=retried("flaky", 4, retry, a=9)))
    assert waited == [10, 30, 50, 50]


async def test_a_run_that_waits_long_for_the_next_try_keeps_no_executor_busy(engine: Engine):
    graph = await engine.add(f=retried("flaky", 1, {"delay_seconds": 3600}, a=1))
    async with engine.worker(num_graph_workers=1):
        run_id = await engine.queue(graph)
        await engine.until(run_id, parked_after("node.waiting"))
        await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x=1)
        await waking.wake(engine.pool, run_id)
        await engine.until(run_id, lambda event: event.type == "run.resumed")
    assert calls == ["f"], "it is not tried before its time though its run was taken up"


@pytest.mark.parametrize("how", ["handed over", "killed"])
async def test_tries_are_counted_though_an_executor_is_lost_between_them(engine: Engine, how: str):
    graph = await engine.add("f.error -> y.value", f=retried("flaky", 3, {"delay_seconds": 0.2}, a=9), y="out")
    run_id = await engine.queue(graph)
    for number in 2, 3:
        if how == "killed":
            await die_before_try(engine, run_id, number)
        else:
            async with engine.worker():
                await engine.until(run_id, before_try(number))
            await waking.wake(engine.pool, run_id)
    async with engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.status, calls) == ("COMPLETED", ["f"] * 4)
    assert (history.node_runs[1].retries, history.outputs) == (3, {"y": ["try 4 failed"]})
    assert history.node_runs[1].outputs["out"] == ["try 1"]
    assert_gap_free(await engine.events(run_id))


async def test_a_block_that_cancels_itself_fails_like_any_other(engine: Engine):
    graph = await engine.add("f.error -> y.value", f=retried("fail", 1, b="cancel"), y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["CancelledError: "]})


async def test_each_try_of_a_node_that_runs_an_agent_begins_a_run_of_its_own(engine: Engine):
    child = await engine.add("f.out -> y.value", f=node("flaky", a=1), y=OUT)
    again = {"settings": {"retry": {"times": 1, **AT_ONCE}}}
    graph = await engine.add("c.y -> z.value", c=call(child) | again, z=OUT)
    async with engine.worker(num_graph_workers=1):
        run, history = await engine.run(graph)
    assert run.status == "COMPLETED"
    assert history.outputs["z"] == ["try 1", "done"]
    assert await engine.pool.fetchval("SELECT count(*) FROM runs WHERE parent_run_id = $1", run.id) == 2


async def test_a_run_is_stopped_between_two_tries(engine: Engine):
    graph = await engine.add(f=retried("flaky", 1, {"delay_seconds": 4}, a=9))
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, before_try(2))
        await control.request_stop(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.node_runs[1].status, calls) == ("TERMINATED", "TERMINATED", ["f"])
