"""Large values are stored once in a run, apart from its events, and nobody who reads them sees a difference."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

import pytest

from backend.execution.scheduler import rescue
from backend.store import events, retention
from backend.store.large_values import APART, LARGE
from tests.execution.agents import IN, OUT, calling
from tests.execution.engine import Engine, assert_gap_free, calls, engine, gated, gates, steered_blocks
from tests.execution.test_recovery import die_at_the_gate

__all__ = ["engine", "gated", "steered_blocks"]

BIG = {"text": "ä\0\u2028" * LARGE, "list": list(range(LARGE))}


async def stored(engine: Engine, run_id: UUID) -> int:
    return await engine.pool.fetchval("SELECT count(*) FROM run_values WHERE run_id = $1", run_id)


async def test_a_value_that_passes_through_many_nodes_is_stored_once(engine: Engine):
    names = [f"p{number}" for number in range(5)]
    links = [f"{source}.out -> {sink}.a" for source, sink in pairwise(names)]
    graph = await engine.add(
        "x.result -> p0.a", *links, "p4.out -> y.value", x="in", y="out", **dict.fromkeys(names, "pass")
    )
    async with engine.worker():
        run, history = await engine.run(graph, x=BIG)
    assert history.outputs == {"y": [BIG]}
    assert all(each.inputs["a"] == BIG for each in history.node_runs.values() if each.node_id in names)
    assert await stored(engine, run.id) == 1
    longest = await engine.pool.fetchval("SELECT max(length(data::text)) FROM run_events")
    assert longest < 1000


async def test_what_is_read_is_what_was_written(engine: Engine):
    graph = await engine.add("x.result -> p.a", "z.result -> p.b", "p.out -> y.value", x="in", z="in", p="pair", y="out")  # fmt: skip  # noqa: E501
    other = "v" * (LARGE + 1)
    async with engine.worker():
        run, history = await engine.run(graph, x=BIG, z=other)
    [pair] = [each for each in history.node_runs.values() if each.node_id == "p"]
    assert (pair.inputs["a"], pair.inputs["b"], pair.outputs["out"]) == (BIG, other, [[BIG, other]])
    assert await stored(engine, run.id) == 3, "two that came in one event, and the pair"
    read = await events.read(engine.pool, run.id)
    assert read == [event for number in range(len(read)) for event in await _one(engine, run.id, number)]
    assert not any(APART in event.data for event in read)
    assert_gap_free(read)


async def _one(engine: Engine, run_id: UUID, after: int) -> list[events.Event]:
    return await events.read(engine.pool, run_id, after=after, limit=1)


@pytest.mark.parametrize(("length", "apart"), [(LARGE - 2, 0), (LARGE - 1, 1)])
async def test_only_what_is_above_the_limit_is_stored_apart(engine: Engine, length: int, apart: int):
    graph = await engine.add("x.result -> y.value", x="in", y="out")
    async with engine.worker():
        run, history = await engine.run(graph, x="v" * length)
    assert history.outputs == {"y": ["v" * length]}
    assert await stored(engine, run.id) == apart


async def test_a_run_goes_on_with_a_large_value_in_another_executor(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=BIG)
    await die_at_the_gate(engine, run_id)
    await rescue(engine.pool)
    gates["g"].set()
    async with engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.status, calls.count("first")) == ("COMPLETED", 1)
    assert history.outputs == {"y": [f"before {BIG}", f"after {BIG}"]}


async def test_a_large_value_goes_to_a_run_below_and_comes_back(engine: Engine):
    child = await engine.add("x.result -> y.value", x=IN, y=OUT)
    async with engine.worker():
        run, history = await engine.run(await calling(engine, child), x=BIG)
    assert history.outputs == {"z": [BIG]}
    assert await engine.pool.fetchval("SELECT count(DISTINCT run_id) FROM run_values") == 2
    assert run.status == "COMPLETED"


async def test_large_values_are_deleted_with_their_run(engine: Engine):
    graph = await engine.add("x.result -> y.value", x="in", y="out")
    async with engine.worker():
        old, _ = await engine.run(graph, x=BIG)
        new, _ = await engine.run(graph, x=BIG)
    await retention.delete_surplus(engine.pool, 1)
    assert [await stored(engine, run.id) for run in (old, new)] == [0, 1]
    assert (await engine.events(new.id))[-1].type == "run.completed"


async def test_a_run_that_is_deleted_between_its_events_and_its_values_is_not_there(engine: Engine):
    graph = await engine.add("x.result -> y.value", x="in", y="out")
    async with engine.worker():
        run, _ = await engine.run(graph, x=BIG)
    await engine.pool.execute("DELETE FROM run_values")
    assert await events.read(engine.pool, run.id) == []
    assert await events.outputs_of(engine.pool, [run.id]) == {}
