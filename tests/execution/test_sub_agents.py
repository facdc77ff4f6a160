"""Agents that call agents: each call is a run of its own, begun once, and never in the way of its caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from backend.execution import executor, outside
from backend.execution.scheduler import rescue, wake
from backend.store import control, queue, runs, waking
from backend.store.runs import StoredRun
from tests.execution.agents import CALL, IN, OUT, call, calling, calling_itself, gated_child, node, parked_after
from tests.execution.engine import Engine, assert_gap_free, calls, gates


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


async def children(engine: Engine, run_id: UUID) -> list[StoredRun]:
    rows = await engine.pool.fetch("SELECT id FROM runs WHERE parent_run_id = $1 ORDER BY id", run_id)
    return [await runs.get(engine.pool, row["id"]) for row in rows]


async def parked_caller(engine: Engine, parent: UUID, **inputs: Any) -> tuple[UUID, UUID]:
    """Queue a run of a calling agent and wait until it waits for its child, which is at its gate."""
    gates["g"] = asyncio.Event()
    run_id = await engine.queue(parent, **inputs)
    await engine.until(run_id, parked_after("run.output"))
    [child] = await children(engine, run_id)
    return run_id, child.id


async def test_a_call_is_a_run_of_its_own_whose_outputs_come_out_of_the_node(engine: Engine):
    child = await engine.add("x.result -> e.a", "e.out -> y.value", x=IN, e="each", y=OUT)
    async with engine.worker():
        run, history = await engine.run(await calling(engine, child), x=[1, 2, 3])
    assert (run.status, history.outputs) == ("COMPLETED", {"z": [1, 2, 3]})
    [called] = await children(engine, run.id)
    assert (called.status, called.graph_id, called.inputs) == ("COMPLETED", child, {"x": [1, 2, 3]})
    [calling_node] = [each for each in history.node_runs.values() if each.node_id == "c"]
    assert (called.parent_node_run, called.depth) == (calling_node.number, 1)
    assert calling_node.outputs == {"y": [1, 2, 3]}
    assert [calling_node.inputs["inputs"], calling_node.status] == [{"x": [1, 2, 3]}, "COMPLETED"]
    assert_gap_free(await engine.events(run.id))


async def test_what_the_caller_gets_is_what_the_output_block_made_of_the_value(engine: Engine):
    child = await engine.add("x.result -> y.value", x=IN, y=node(OUT, format="<{{ y }}>"))
    async with engine.worker():
        _, history = await engine.run(await calling(engine, child), x="v")
    assert history.outputs == {"z": ["<v>"]}


async def test_an_output_travels_on_before_the_child_has_ended(engine: Engine):
    gates["g"] = asyncio.Event()
    parent = await calling(engine, await gated_child(engine))
    async with engine.worker():
        run_id = await engine.queue(parent, x=1)
        await engine.until(run_id, lambda event: event.type == "run.output")
        [child] = await children(engine, run_id)
        assert child.status == "RUNNING"
        gates["g"].set()
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("COMPLETED", {"z": ["before 1", "after 1"]})


async def test_agents_nested_deeper_than_there_are_workers_do_not_lock_each_other_out(engine: Engine):
    agent = await engine.add("x.result -> y.value", x=IN, y=OUT)
    for _ in range(5):
        agent = await engine.add("x.result -> c.x", "c.y -> y.value", x=IN, c=call(agent), y=OUT)
    async with engine.worker(num_graph_workers=1):
        run_ids = [await engine.queue(agent, x=number) for number in range(4)]
        ended = [await engine.end_of(run_id) for run_id in run_ids]
    assert [history.outputs for _, history in ended] == [{"y": [number]} for number in range(4)]


async def test_a_caller_whose_executor_died_goes_on_with_the_child_it_had_begun(engine: Engine):
    gates["g"] = asyncio.Event()
    other = {"block_id": "gate", "input_default": {"name": "other"}}
    gates["other"] = asyncio.Event()
    parent = await calling(engine, await gated_child(engine), o=other)  # `o` keeps the caller with its executor
    async with engine.worker() as dying:
        run_id = await engine.queue(parent, x=1)
        await engine.until(run_id, lambda event: event.type == "run.output")
        dying.task.cancel()
        await asyncio.wait([dying.task])
        [before] = await children(engine, run_id)
        await engine.pool.execute("DELETE FROM executors")
        await rescue(engine.pool)
        gates["g"].set()
        gates["other"].set()
        async with engine.worker():
            run, history = await engine.end_of(run_id)
        dying.task = asyncio.create_task(asyncio.sleep(0))
    assert (run.status, history.outputs["z"]) == ("COMPLETED", ["before 1", "after 1"])
    assert [child.id for child in await children(engine, run_id)] == [before.id]
    assert_gap_free(await engine.events(run_id))


async def test_a_caller_waits_in_the_database_without_an_executor(engine: Engine):
    parent = await calling(engine, await gated_child(engine))
    async with engine.worker():
        run_id, _ = await parked_caller(engine, parent, x=1)
        run = await runs.get(engine.pool, run_id)
        assert (run.status, run.executor) == ("RUNNING", None)
        gates["g"].set()
        await engine.end_of(run_id)
    assert Counter(calls) == {"g": 1, "p": 2}


async def test_the_failure_of_a_child_is_the_error_of_the_node_and_names_the_run(engine: Engine):
    parent = await calling(engine, await engine.add("f.out -> y.value", f="fail", y=OUT))
    async with engine.worker():
        run, history = await engine.run(parent, x=1)
    [child] = await children(engine, run.id)
    told = f"the run {child.id} of the agent graph failed: FailBlock (f) failed: cannot be done"
    assert (run.status, run.error) == ("FAILED", f"AgentExecutorBlock (c) failed: {told}")
    assert history.outputs == {"z": ["before"]}


async def test_a_child_that_cannot_even_begin_fails_its_caller(engine: Engine):
    parent = await calling(engine, await engine.add(n="f3a8f7e1-4b1d-4e5f-9f2a-7c3d5a2e6b4c"))
    async with engine.worker():
        run, _ = await engine.run(parent, x=1)
    assert "TranscribeYoutubeVideoBlock" in run.error


async def test_a_child_that_somebody_stopped_is_an_error_that_can_be_handled(engine: Engine):
    child = await gated_child(engine)
    parent = await engine.add(
        "x.result -> c.x", "c.error -> e.value", "c.y -> p.a", "p.out -> z.value",
        x=IN, c=call(child), p="pass", z=OUT, e=OUT,
    )  # fmt: skip
    async with engine.worker():
        run_id, child_id = await parked_caller(engine, parent, x=1)
        await control.request_stop(engine.pool, child_id)
        run, history = await engine.end_of(run_id)
    assert run.status == "COMPLETED"
    assert history.outputs["e"] == [f"the run {child_id} of the agent graph was stopped"]


async def test_an_agent_that_is_not_here_is_named(engine: Engine):
    missing = uuid4()
    for graph_id in (str(missing), "nonsense"):
        graph = await engine.add(c=node(CALL, graph_id=graph_id, graph_version=3))
        async with engine.worker():
            run, _ = await engine.run(graph)
        assert run.error.endswith(f"there is no agent {graph_id} in version 3: import it, or choose another")


async def test_a_call_with_odd_values_fails_its_run_and_not_the_executor(engine: Engine):
    child = await engine.add("x.result -> y.value", x=IN, y=OUT)
    version = await engine.add(c=node(CALL, graph_id=str(child), graph_version=2**63))
    path = await engine.add(c=node(CALL, graph_id=str(child), **{"inputs_$_x": 1}))
    listed = await engine.add(c=node(CALL, graph_id=str(child), inputs=[1]))
    async with engine.worker():
        assert "there is no agent" in (await engine.run(version))[0].error
        assert "cannot be given its values" in (await engine.run(path))[0].error
        assert (await engine.run(listed))[0].status == "COMPLETED"


async def test_an_agent_that_calls_itself_without_end_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outside, "MAX_DEPTH", 3)
    graph = await calling_itself(engine)
    async with engine.worker(num_graph_workers=1):
        run, _ = await engine.run(graph)
    most = "this run is 3 runs below the first, which is the most"
    assert run.error.endswith(f"{most}: does an agent call itself without end?")
    assert await engine.pool.fetchval("SELECT max(depth) FROM runs") == 3


async def test_stopping_a_run_stops_those_below_it_first(engine: Engine):
    inner = await gated_child(engine)
    middle = await engine.add("x.result -> c.x", "c.y -> y.value", x=IN, c=call(inner), y=OUT)
    async with engine.worker():
        gates["g"] = asyncio.Event()
        run_id = await engine.queue(await calling(engine, middle), x=1)
        await engine.until(run_id, parked_after("run.output"))
        await control.request_stop(engine.pool, run_id)
        _, history = await engine.end_of(run_id)
    rows = await engine.pool.fetch("SELECT status FROM runs ORDER BY ended_at, depth DESC")
    assert [row["status"] for row in rows] == ["TERMINATED"] * 3
    depths = [row["depth"] for row in await engine.pool.fetch("SELECT depth FROM runs ORDER BY ended_at")]
    assert depths == [2, 1, 0]
    assert {each.node_id: each.status for each in history.node_runs.values()}["c"] == "TERMINATED"


async def test_runs_that_wait_are_stopped_without_any_executor(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.execution.executor.FINISH_WITHIN", 0.1)  # the node at its gate does not
    parent = await calling(engine, await gated_child(engine))
    async with engine.worker():
        run_id, child_id = await parked_caller(engine, parent, x=1)
    assert (await runs.get(engine.pool, child_id)).status == "QUEUED"
    await control.request_stop(engine.pool, run_id)
    assert [(await runs.get(engine.pool, id)).status for id in (run_id, child_id)] == ["TERMINATED"] * 2
    assert_gap_free(await engine.events(run_id))


@pytest.mark.parametrize("first", [control.pause, control.request_stop])
async def test_a_tree_that_is_paused_and_stopped_ends_though_a_node_below_is_at_work(engine: Engine, first):
    parent = await calling(engine, await gated_child(engine))
    async with engine.worker():
        run_id, child_id = await parked_caller(engine, parent, x=1)
        second = control.pause if first is control.request_stop else control.request_stop
        # The order in which all is decided before the executor has heard of any of it.
        for steer in (first, second):
            await steer(engine.pool, run_id)
        ends = [(await engine.end_of(id))[0].status for id in (child_id, run_id)]
    assert ends == ["TERMINATED"] * 2


async def test_what_a_paused_run_begins_while_it_is_resumed_is_resumed_too(engine: Engine):
    parent_id = await engine.queue(await engine.add(x=IN))
    child_graph, executor_id, child_id = await engine.add(x=IN), uuid4(), uuid4()
    [parent] = await queue.claim(engine.pool, executor_id, 1)
    await control.pause(engine.pool, parent_id)
    async with engine.pool.acquire() as connection:
        async with connection.transaction():
            await runs.insert_child(connection, parent, 1, child_id, child_graph, 1, {})
            resuming = asyncio.create_task(control.resume(engine.pool, parent_id))
            await until_somebody_waits_for_a_lock(engine)
        await resuming
    assert not (await runs.get(engine.pool, child_id)).paused


async def until_somebody_waits_for_a_lock(engine: Engine) -> None:
    async with asyncio.timeout(20):
        while not await engine.pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            pass


async def test_a_caller_is_woken_though_the_answer_that_says_so_is_lost(engine: Engine, monkeypatch):
    gates.update(g=asyncio.Event(), o=asyncio.Event())
    parent = await calling(engine, await gated_child(engine), o="gate")  # `o` keeps the caller with its executor
    take = waking.take_waking

    async def lost(*arguments: Any) -> None:
        await take(*arguments)
        raise ConnectionResetError

    monkeypatch.setattr("backend.execution.waking.take_waking", lost)
    async with engine.worker():
        run_id = await engine.queue(parent, x=1)
        await engine.until(run_id, lambda event: event.type == "run.output")
        gates["g"].set()
        gates["o"].set()
        run, _ = await engine.end_of(run_id)
    assert run.status == "COMPLETED"


async def test_a_caller_is_woken_though_the_executor_of_the_child_died_at_its_end(engine: Engine, monkeypatch):
    parent = await calling(engine, await gated_child(engine))

    async def silent(*_: Any) -> None:
        pass

    async with engine.worker():
        run_id, child_id = await parked_caller(engine, parent, x=1)
        with monkeypatch.context() as patch:
            patch.setattr("backend.execution.waking.wake", silent)
            gates["g"].set()
            await engine.end_of(child_id)
        assert await waking.parents_to_tell(engine.pool) == [run_id]
        await wake(engine.pool)
        run, _ = await engine.end_of(run_id)
    assert run.status == "COMPLETED"
    assert await waking.parents_to_tell(engine.pool) == []
