"""What goes wrong ends what it went wrong in: a node, a run, and never an executor with all its other runs."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from backend.blocks import registry
from backend.execution.dataflow import Dataflow
from backend.execution.executor import Executor, Worker
from backend.execution.run import MAX_DEPTH
from backend.execution.scheduler import rescue
from backend.store import runs
from tests.execution.engine import Engine, InBlock, before_the_gate, gates
from tests.execution.test_recovery import die_at_the_gate

RETRIED = {"retry": {"times": 1, "delay_seconds": 0}}


@pytest.mark.parametrize("settings", [{}, RETRIED])
async def test_a_block_that_ends_the_program_ends_only_its_node(engine: Engine, settings: dict[str, Any]):
    exits = {"block_id": "fail", "input_default": {"b": "exit"}, "settings": settings}
    graph = await engine.add("f.error -> y.value", f=exits, y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 1, {"y": ["SystemExit: gone"]})


async def test_a_value_that_is_nested_too_deep_fails_the_node_that_put_it_out(engine: Engine):
    graph = await engine.add("x.result -> d.a", "d.out -> y.value", x="in", d="deep", y="out")
    async with engine.worker():
        ends = [await engine.run(graph, x=levels) for levels in (MAX_DEPTH, MAX_DEPTH + 1, 254, 300)]
    assert [run.status for run, _ in ends] == ["COMPLETED", "FAILED", "FAILED", "FAILED"]
    assert [run.attempt for run, _ in ends] == [1] * 4
    assert {history.node_runs[2].error for _, history in ends[1:3]} == {
        f"the value of pin `out` is nested deeper than {MAX_DEPTH} levels"
    }


async def test_a_run_whose_events_do_not_fit_its_graph_any_more_fails(engine: Engine, monkeypatch):
    gates["g"] = asyncio.Event()
    graph = await engine.add(
        "x.result -> p.b", "l.result -> e.a", "e.out -> p.a", "p.out -> g.a", "g.out -> y.value",
        x="in", l="in", e="each", p="pair", g="gate", y="out",
    )  # fmt: skip
    run_id = await engine.queue(graph, x=1, l=[1, 2, 3])
    await die_at_the_gate(engine, run_id)
    await rescue(engine.pool)
    monkeypatch.setattr(InBlock, "static_output", False)
    blocks = {**registry.blocks(), "in": InBlock()}
    monkeypatch.setattr(registry, "blocks", lambda: blocks)
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert run.status == "FAILED"
    assert run.error.startswith("what it has written does not fit its graph, as the blocks are now (KeyError;")
    events = await engine.events(run_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("at", ["start", "deliver"])
async def test_a_mistake_of_ours_ends_the_run_in_which_it_is_made_and_no_other(engine, gated, monkeypatch, at: str):
    other = await engine.queue(gated, x="other")
    async with engine.worker():
        await engine.until(other, before_the_gate)
        right = getattr(Dataflow, at)

        def wrong(*arguments: Any) -> Any:
            if arguments[3:] in ((), ("mistaken",)):
                raise LookupError("a mistake")
            return right(*arguments)

        monkeypatch.setattr(Dataflow, at, wrong)
        run, _ = await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x="mistaken")
        assert (run.status, run.attempt) == ("FAILED", 1)
        assert "LookupError" in run.error
        gates["g"].set()
        run, _ = await engine.end_of(other)
    assert (run.status, run.attempt) == ("COMPLETED", 1)


async def test_what_an_executor_leaves_that_ends_by_a_mistake_is_rescued_and_so_counted(
    engine: Engine, gated: UUID, database_url: str, monkeypatch
):
    monkeypatch.setenv("DATABASE_URL", database_url)
    run_id = await engine.queue(gated, x=1)

    async def fail_at_the_gate(*_: Any) -> None:
        await engine.until(run_id, before_the_gate)
        raise LookupError("a mistake")

    monkeypatch.setattr(Worker, "_beat_forever", fail_at_the_gate)
    with pytest.raises(ExceptionGroup):
        await Executor().serve(asyncio.Event())
    assert (await runs.get(engine.pool, run_id)).executor
    await engine.pool.execute("DELETE FROM executors")
    await rescue(engine.pool)
    assert (await engine.events(run_id))[-1].type == "run.rescued"
