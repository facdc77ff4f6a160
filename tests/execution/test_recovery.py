"""Runs outlive their executor: nothing finished runs again, nothing is lost, nobody writes to another's run."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from backend.execution import executor
from backend.execution.executor import Worker
from backend.execution.scheduler import rescue
from backend.store import control, graphs, queue
from tests.execution.engine import Engine, assert_gap_free, before_the_gate, calls, cut_off, gates


async def die_at_the_gate(engine: Engine, run_id: UUID) -> None:
    """Let an executor bring the run to its gate, and die there."""
    worker = Worker(engine.pool, engine.settings)
    await worker.join()
    dying = asyncio.create_task(worker.work(engine.settings.database_url, asyncio.Event()))
    await engine.until(run_id, before_the_gate)
    dying.cancel()
    await asyncio.wait([dying])
    await engine.pool.execute("DELETE FROM executors")


async def test_the_runs_of_a_dead_executor_go_on_in_another_without_repeating_a_finished_node(engine, gated):
    run_id = await engine.queue(gated, x=1)
    await die_at_the_gate(engine, run_id)
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
    run_id = await engine.queue(gated, x=1)
    await die_at_the_gate(engine, run_id)
    await control.request_stop(engine.pool, run_id)
    await rescue(engine.pool)
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert run.status == "TERMINATED"


async def test_a_run_that_its_executor_lost_and_got_back_is_worked_on_once(engine: Engine, gated: UUID):
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await engine.pool.execute("UPDATE runs SET status = 'QUEUED', executor = NULL")
        await engine.pool.execute("SELECT pg_notify('run_queued', '')")
        await engine.until(run_id, lambda event: event.type == "run.resumed")
        assert cut_off == ["g"]
        gates["g"].set()
        run, history = await engine.end_of(run_id)
    assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 2, {"y": ["before 1", "after 1"]})
    assert Counter(calls)["last"] == 2
    assert_gap_free(await engine.events(run_id))


async def test_a_run_that_its_executor_lost_and_got_back_can_be_stopped(engine: Engine, gated: UUID):
    async with engine.worker():
        run_id = await engine.queue(gated, x=1)
        await engine.until(run_id, before_the_gate)
        await engine.pool.execute("UPDATE runs SET status = 'QUEUED', executor = NULL")
        await engine.pool.execute("SELECT pg_notify('run_queued', '')")
        await engine.until(run_id, lambda event: event.type == "run.resumed")
        await control.request_stop(engine.pool, run_id)
        run, _ = await engine.end_of(run_id)
    assert run.status == "TERMINATED"


async def test_an_executor_that_slept_says_that_it_lives_before_it_claims(engine: Engine, monkeypatch):
    monkeypatch.setattr(executor, "HEARTBEAT_EVERY", 3600)
    monkeypatch.setattr(executor, "DEAD_AFTER", 0)
    claim, alive = queue.claim, []

    async def claiming(*arguments: Any) -> Any:
        alive.append(await engine.pool.fetchval("SELECT count(*) FROM executors"))
        return await claim(*arguments)

    monkeypatch.setattr(queue, "claim", claiming)
    async with engine.worker():
        graph = await engine.add("x.result -> y.value", x="in", y="out")
        await engine.run(graph, x="after its first heartbeat")
        await engine.pool.execute("DELETE FROM executors")
        await engine.run(graph, x="now")
        assert alive[-1] == 1


@pytest.mark.parametrize("lost", ["the answer to a claim", "the graph"])
async def test_a_run_whose_claim_broke_off_is_claimed_again(engine: Engine, gated: UUID, monkeypatch, lost: str):
    gates["g"].set()
    monkeypatch.setattr(executor, "HEARTBEAT_EVERY", 0.02)
    module, name = (queue, "claim") if lost == "the answer to a claim" else (graphs, "documents")
    found = getattr(module, name)

    async def lost_at_first(*arguments: Any) -> Any:
        answer = await found(*arguments)
        if answer:
            monkeypatch.setattr(module, name, found)
            raise ConnectionResetError
        return answer

    monkeypatch.setattr(module, name, lost_at_first)
    async with engine.worker():
        run, _ = await engine.run(gated, x=1)
    assert (run.status, run.attempt) == ("COMPLETED", 2)


async def test_many_runs_on_several_executors_each_end_once(engine: Engine):
    graph = await engine.add("x.result -> e.a", "e.out -> p.a", "p.out -> y.value", x="in", e="each", p="pass", y="out")
    async with engine.worker(num_graph_workers=5), engine.worker(num_graph_workers=5):
        run_ids = [await engine.queue(graph, x=[n, n]) for n in range(60)]
        ended = [await engine.end_of(run_id) for run_id in run_ids]
    assert [history.outputs for _, history in ended] == [{"y": [n, n]} for n in range(60)]
    assert all(run.attempt == 1 for run, _ in ended)
