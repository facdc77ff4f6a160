"""A run that is stopped ends after those below it, wherever they are, and tells what was left."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from backend.execution import executor
from backend.execution import run as run_module
from backend.store import control, events
from tests.execution.agents import IN, OUT, call, calling, gated_child, parked_after
from tests.execution.engine import Engine, assert_gap_free, cut_off, gates


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)
    monkeypatch.setattr(run_module, "STOP_WITHIN", 20)


async def order_of_ends(engine: Engine) -> list[tuple[int, str]]:
    """The depth and status of all runs, in the order in which they ended."""
    rows = await engine.pool.fetch("SELECT depth, status FROM runs ORDER BY ended_at, depth DESC")
    return [(row["depth"], row["status"]) for row in rows]


async def busy_caller(engine: Engine) -> UUID:
    """A run whose executor has it still when it waits for its child: another node of it is at its gate."""
    gates.update(g=asyncio.Event(), o=asyncio.Event())
    return await engine.queue(await calling(engine, await gated_child(engine), o="gate"), x=1)


async def test_a_caller_at_work_ends_after_its_child_in_another_executor(engine: Engine):
    async with engine.worker(num_graph_workers=1), engine.worker(num_graph_workers=1):
        run_id = await busy_caller(engine)
        await engine.until(run_id, lambda event: event.type == "run.output")
        held = await engine.pool.fetch("SELECT DISTINCT executor FROM runs WHERE status = 'RUNNING'")
        assert len(held) == 2
        await control.request_stop(engine.pool, run_id)
        _, history = await engine.end_of(run_id)
    assert await order_of_ends(engine) == [(1, "TERMINATED"), (0, "TERMINATED")]
    statuses = {each.node_id: each.status for each in history.node_runs.values()}
    assert (statuses["c"], statuses["o"]) == ("TERMINATED", "TERMINATED")
    assert "node.failed" not in [event.type for event in await engine.events(run_id)]
    assert sorted(cut_off) == ["g", "o"]
    assert_gap_free(await engine.events(run_id))


async def test_a_caller_that_is_taken_up_again_to_be_stopped_ends_after_its_child(engine: Engine, monkeypatch):
    child_ends, go_on = asyncio.Event(), asyncio.Event()
    append = events.append

    async def held(connection, entries):
        if any(entry.status == "TERMINATED" for entry in entries) and not child_ends.is_set():
            child_ends.set()
            await go_on.wait()
        return await append(connection, entries)

    async with engine.worker(), engine.worker():
        gates["g"] = asyncio.Event()
        run_id = await engine.queue(await calling(engine, await gated_child(engine)), x=1)
        await engine.until(run_id, parked_after("run.output"))
        monkeypatch.setattr(events, "append", held)
        await control.request_stop(engine.pool, run_id)
        await child_ends.wait()
        await engine.pool.execute("UPDATE runs SET status = 'QUEUED' WHERE id = $1", run_id)
        await engine.pool.execute("SELECT pg_notify('run_queued', '')")
        await engine.until(run_id, lambda event: event.type == "run.resumed")
        go_on.set()
        await engine.end_of(run_id)
    assert await order_of_ends(engine) == [(1, "TERMINATED"), (0, "TERMINATED")]


async def test_a_caller_does_not_wait_for_ever_for_a_child_whose_executor_is_dead(engine: Engine, monkeypatch):
    monkeypatch.setattr(run_module, "STOP_WITHIN", 0.1)
    async with engine.worker():
        run_id = await busy_caller(engine)
        await engine.until(run_id, lambda event: event.type == "run.output")
        await engine.pool.execute("UPDATE runs SET executor = $1, attempt = 9 WHERE depth = 1", UUID(int=1))
        await control.request_stop(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
    assert run.status == "TERMINATED"
    assert await engine.pool.fetchval("SELECT status FROM runs WHERE depth = 1") == "RUNNING"


async def test_three_levels_end_from_below_on_two_executors(engine: Engine):
    gates["g"] = asyncio.Event()
    middle = await engine.add("x.result -> c.x", "c.y -> y.value", x=IN, c=call(await gated_child(engine)), y=OUT)
    async with engine.worker(num_graph_workers=1), engine.worker(num_graph_workers=1):
        run_id = await engine.queue(await calling(engine, middle), x=1)
        await engine.until(run_id, parked_after("run.output"))
        await control.request_stop(engine.pool, run_id)
        await engine.end_of(run_id)
    assert await order_of_ends(engine) == [(2, "TERMINATED"), (1, "TERMINATED"), (0, "TERMINATED")]


async def test_a_stopped_run_tells_what_never_ran_and_what_waited(engine: Engine):
    gates["g"] = asyncio.Event()
    graph = await engine.add(
        "g.out -> p.a", "g.result -> p.b", "g.result -> after.a", g="gate", p="pair", after="pass"
    )  # fmt: skip
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "node.output")
        await control.request_stop(engine.pool, run_id)
        _, history = await engine.end_of(run_id)
    assert [(each["node_id"], each["pins"]) for each in history.waiting] == [("p", ["b"])]
    assert [each["node_id"] for each in history.never_ran] == ["p", "after"]


async def test_a_node_that_had_begun_before_its_run_was_taken_up_again_is_not_told_as_never_run(engine: Engine):
    gates["g"] = asyncio.Event()
    async with engine.worker():
        run_id = await engine.queue(await calling(engine, await gated_child(engine)), x=1)
        await engine.until(run_id, parked_after("run.output"))
        await control.request_stop(engine.pool, run_id)
        _, history = await engine.end_of(run_id)
    assert history.never_ran == []
