"""What a node costs does not depend on how many there are. `pytest -s` shows the figures."""

from __future__ import annotations

import time
from itertools import pairwise
from uuid import UUID

import pytest

from tests.execution.engine import Engine


async def chain(engine: Engine, count: int) -> UUID:
    names = [f"n{place}" for place in range(count)]
    return await engine.add(*(f"{a}.out -> {b}.a" for a, b in pairwise(names)), **dict.fromkeys(names, "pass"))


async def fan_out(engine: Engine, count: int) -> UUID:
    names = [f"n{place}" for place in range(count - 1)]
    return await engine.add(*(f"root.out -> {name}.a" for name in names), root="pass", **dict.fromkeys(names, "pass"))


@pytest.mark.parametrize("shape", [chain, fan_out])
async def test_a_node_among_a_thousand_costs_no_more_than_one_among_ten(engine: Engine, shape):
    cost: dict[int, float] = {}
    async with engine.worker():
        for count in (10, 100, 1000):
            graph = await shape(engine, count)
            await engine.run(graph)  # the plan of the graph is made only once
            cost[count] = min([await _seconds_per_node(engine, graph, count) for _ in range(300 // count + 2)])
    figures = ", ".join(f"{count}: {seconds * 1e6:.0f} µs" for count, seconds in cost.items())
    print(f"\n{shape.__name__}, processor time per node of {figures}")  # noqa: T201
    assert cost[1000] < 2 * cost[10], figures


async def _seconds_per_node(engine: Engine, graph: UUID, count: int) -> float:
    began = time.process_time()
    run_id = await engine.queue(graph)
    await engine.feed.wait_for_end(run_id, 50)
    seconds = time.process_time() - began
    _, history = await engine.end_of(run_id)
    assert len(history.node_runs) == count
    return seconds / count
