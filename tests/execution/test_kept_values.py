"""Values that agents keep: per agent or for all, and written once for each node run."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from backend.store import kept_values, retention
from tests.execution.agents import IN, OUT, PERSIST, RETRIEVE, node
from tests.execution.engine import Engine


async def finder(engine: Engine, **pins: Any) -> UUID:
    return await engine.add("r.value -> y.value", r=node(RETRIEVE, key="k", default_value="none", **pins), y=OUT)


async def agent(engine: Engine, **pins: Any) -> UUID:
    """An agent that puts out what it finds under `k`, and then keeps its `x` there."""
    return await engine.add(
        "r.value -> old.value", "r.value -> w.a", "x.result -> w.b", "w.out_$_1 -> p.value",
        x=IN, r=node(RETRIEVE, key="k", default_value="none", **pins), w="pair", old=OUT,
        p=node(PERSIST, key="k", **pins),
    )  # fmt: skip


async def test_a_value_outlives_the_run_and_is_found_by_the_next(engine: Engine):
    graph = await agent(engine)
    async with engine.worker():
        found = [(await engine.run(graph, x=value))[1].outputs["old"] for value in ({"a": 1}, [], "last")]
    assert found == [["none"], [{"a": 1}], [[]]]


@pytest.mark.parametrize(("scope", "seen"), [("within_agent", "none"), ("across_agents", "mine")])
async def test_another_agent_sees_a_value_only_if_it_was_kept_for_all(engine: Engine, scope: str, seen: str):
    async with engine.worker():
        await engine.run(await agent(engine, scope=scope), x="mine")
        _, history = await engine.run(await finder(engine, scope=scope))
    assert history.outputs == {"y": [seen]}


async def test_a_node_run_that_is_repeated_does_not_write_over_what_came_after_it(engine: Engine):
    graph = await agent(engine)
    run_id = await engine.queue(graph, x=1)
    await kept_values.keep(engine.pool, run_id, 1, "s", "k", "first")
    await kept_values.keep(engine.pool, run_id, 2, "s", "k", "second")
    await kept_values.keep(engine.pool, run_id, 1, "s", "k", "first")
    assert await kept_values.recall(engine.pool, "s", "k") == "second"


# The second is what asyncpg says while it has read why the connection ends, but not yet its end.
@pytest.mark.parametrize("error", [ConnectionResetError(), asyncpg.InternalClientError("cannot switch to state 12")])
async def test_a_connection_that_is_lost_under_a_statement_fails_no_node(engine: Engine, monkeypatch, error: Exception):
    recall = kept_values.recall

    async def lost_at_first(*_: Any) -> Any:
        monkeypatch.setattr(kept_values, "recall", recall)
        raise error

    monkeypatch.setattr(kept_values, "recall", lost_at_first)
    async with engine.worker():
        run, history = await engine.run(await finder(engine))
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["none"]})


async def test_what_is_remembered_of_a_run_goes_with_it(engine: Engine):
    async with engine.worker():
        await engine.run(await agent(engine), x=1)
    await engine.pool.execute("UPDATE runs SET ended_at = now() - interval '3 days'")
    assert await retention.delete_old(engine.pool, 2) == 1
    assert await engine.pool.fetchval("SELECT count(*) FROM kept_by") == 0
    assert await engine.pool.fetchval("SELECT count(*) FROM kept_values") == 1
