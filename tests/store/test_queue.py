"""Which run comes next: by depth, priority and age, and never more at work than a limit says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Unpack
from uuid import UUID, uuid4

import pytest

from backend.settings import Settings
from backend.store import control, events, graph_settings, graphs, queue, runs, waking
from backend.store.connection import Pool, open_pool
from backend.store.events import Entry
from backend.store.identifiers import child_run_id, new_id
from backend.store.runs import Options, StoredRun
from tests.execution.agents import IN, OUT, call
from tests.execution.engine import Engine, engine, steered_blocks

__all__ = ["engine", "steered_blocks"]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(database_url=database_url)) as pool:
        yield pool


async def add(pool: Pool) -> UUID:
    graph_id = uuid4()
    await graphs.insert(pool, graph_id, 1, "graph", {"nodes": []})
    return graph_id


async def queued(pool: Pool, graph_id: UUID, **options: Unpack[Options]) -> UUID:
    return (await runs.insert(pool, new_id(), graph_id, 1, {}, **options)).id


async def claimed(pool: Pool, wanted: int = 10, at_most: int = 0) -> list[UUID]:
    """The runs that an executor would get now, first to last."""
    found: list[UUID] = []
    while len(found) < wanted and (one := await queue.claim(pool, uuid4(), 1, at_most)):
        found.append(one[0].id)
    return found


async def end(pool: Pool, id: UUID, status: str = "COMPLETED") -> None:
    run = await runs.get(pool, id)
    assert run
    assert await events.append(pool, [Entry(id, run.attempt, [], status)])


async def begin_child(pool: Pool, parent: UUID) -> UUID:
    run = await runs.get(pool, parent)
    assert run
    child = child_run_id(parent, 1, 0)
    await runs.insert_child(pool, run, 1, child, run.graph_id, 1, {})
    return child


# The order


@pytest.mark.parametrize("limit", [None, 100])
async def test_runs_below_others_go_first_then_the_urgent_then_the_oldest(pool: Pool, limit: int | None):
    graph_id = await add(pool)
    parent = await queued(pool, graph_id)
    assert await claimed(pool, 1) == [parent]
    await graph_settings.limit_runs(pool, graph_id, limit)
    other = await add(pool)
    old, low, high = [
        await queued(pool, of, priority=priority) for of, priority in ((graph_id, 0), (other, -5), (graph_id, 5))
    ]
    new, highest = await queued(pool, other), await queued(pool, other, priority=7)
    child = await begin_child(pool, parent)
    assert await claimed(pool) == [child, highest, high, old, new, low]


async def test_a_run_below_an_urgent_one_is_as_urgent(pool: Pool):
    graph_id = await add(pool)
    calm, urgent = await queued(pool, graph_id), await queued(pool, graph_id, priority=9)
    assert await claimed(pool) == [urgent, calm]
    children = [await begin_child(pool, calm), await begin_child(pool, urgent)]
    assert await claimed(pool) == children[::-1]


async def test_an_urgent_run_overtakes_thousands_whose_turn_it_is_not(pool: Pool):
    limited, free = await add(pool), await add(pool)
    await graph_settings.limit_runs(pool, limited, 1)
    await pool.execute(
        """
        INSERT INTO runs (id, graph_id, graph_version, status, inputs, priority, limited)
        SELECT gen_random_uuid(), $1, 1, 'QUEUED', '{}', -10, true FROM generate_series(1, 10000)
        """,
        limited,
    )
    await pool.execute("ANALYZE runs")
    assert len(await claimed(pool, 1)) == 1
    for _ in range(20):
        run = await queued(pool, free, priority=5)
        assert await claimed(pool) == [run]
    first = queue.FIRST.replace("$1", "10").replace("$2", f"'{{{limited}}}'").replace("$3", "'{}'")
    plan = await pool.fetch("EXPLAIN (ANALYZE, FORMAT JSON) " + first)
    assert _rows_read(plan[0][0][0]["Plan"]) < 500, "it does not read the queue from end to end"


def _rows_read(plan: dict) -> float:
    own = plan["Actual Rows"] * plan["Actual Loops"] if "Scan" in plan["Node Type"] else 0
    return own + sum(map(_rows_read, plan.get("Plans", ())))


# Limits


@pytest.mark.parametrize("what", ["graph", "key", "server"])
async def test_no_more_run_than_the_limit_however_many_executors_claim_at_once(pool: Pool, what: str):
    graph_id, at_most = await add(pool), 3 if what == "server" else 0
    if what == "graph":
        await graph_settings.limit_runs(pool, graph_id, 3)
    options: Options = {"concurrency_key": "k", "concurrency_limit": 3} if what == "key" else {}
    waiting = {await queued(pool, graph_id, **options) for _ in range(20)}
    done: set[UUID] = set()

    async def work() -> None:
        executor = uuid4()
        while len(done) < len(waiting):
            for run in await queue.claim(pool, executor, 2, at_most):
                assert await pool.fetchval("SELECT count(*) FROM runs WHERE status = 'RUNNING'") <= 3
                await end(pool, run.id)
                done.add(run.id)

    async with asyncio.timeout(20):
        await asyncio.gather(*(work() for _ in range(6)))
    assert done == waiting


async def test_a_key_limits_runs_of_all_graphs_that_have_it(pool: Pool):
    options: Options = {"concurrency_key": "k", "concurrency_limit": 1}
    first, second = await queued(pool, await add(pool), **options), await queued(pool, await add(pool), **options)
    other = await queued(pool, await add(pool), concurrency_key="other", concurrency_limit=1)
    assert await claimed(pool) == [first, other]
    await end(pool, first)
    assert await claimed(pool) == [second]


async def test_what_is_limited_does_not_hold_up_what_is_not(pool: Pool):
    limited = await add(pool)
    await graph_settings.limit_runs(pool, limited, 1)
    first, _ = await queued(pool, limited), await queued(pool, limited, priority=9)
    free = await queued(pool, await add(pool))
    found = await claimed(pool)
    assert len(found) == 2
    assert first not in found
    assert free in found


async def test_a_limit_holds_for_runs_that_were_queued_before_it_and_not_after_it_is_lifted(pool: Pool):
    graph_id = await add(pool)
    waiting = [await queued(pool, graph_id) for _ in range(5)]
    await graph_settings.limit_runs(pool, graph_id, 2)
    assert await claimed(pool) == waiting[:2]
    await graph_settings.limit_runs(pool, graph_id, 1)
    await end(pool, waiting[0])
    assert await claimed(pool) == [], "the limit was lowered, and one is at work"
    await end(pool, waiting[1])
    assert await claimed(pool) == waiting[2:3]
    await graph_settings.limit_runs(pool, graph_id, None)
    assert await claimed(pool) == waiting[3:]


async def test_a_run_in_review_gives_up_its_place_and_one_that_waits_for_another_does_not(pool: Pool):
    graph_id = await add(pool)
    await graph_settings.limit_runs(pool, graph_id, 1)
    first, second, third = [await queued(pool, graph_id) for _ in range(3)]
    assert await claimed(pool) == [first]
    await end(pool, first, "RUNNING")
    assert await claimed(pool) == []
    await pool.execute("UPDATE runs SET status = 'REVIEW', has_place = false WHERE id = $1", first)
    assert await claimed(pool) == [second]
    await end(pool, second)
    assert await claimed(pool) == [third]


@pytest.mark.parametrize("woken", [True, False])
async def test_a_run_keeps_its_place_while_it_is_handed_over_or_woken(pool: Pool, woken: bool):
    graph_id = await add(pool)
    await graph_settings.limit_runs(pool, graph_id, 1)
    first = await queued(pool, graph_id)
    assert await claimed(pool) == [first]
    await end(pool, first, "RUNNING" if woken else "QUEUED")
    urgent = await queued(pool, graph_id, priority=9)
    if woken:
        await waking.wake(pool, first)
    assert await claimed(pool, 1) == [first]
    await end(pool, first)
    assert await claimed(pool) == [urgent]


async def test_a_queue_of_many_keys_is_served_in_order_and_past_those_that_are_full(pool: Pool):
    graph_id = await add(pool)
    first, second = [await queued(pool, graph_id, concurrency_key="a", concurrency_limit=1) for _ in range(2)]
    other = await queued(pool, graph_id, concurrency_key="b", concurrency_limit=1)
    assert await claimed(pool, 2) == [first, other]
    assert await claimed(pool) == []
    await end(pool, first)
    assert await claimed(pool) == [second]


async def test_a_paused_run_holds_nobody_up(pool: Pool):
    graph_id = await add(pool)
    await graph_settings.limit_runs(pool, graph_id, 1)
    first, second = await queued(pool, graph_id), await queued(pool, graph_id)
    await control.pause(pool, first)
    assert await claimed(pool) == [second]


@pytest.mark.parametrize("limits", ["graph", "server"])
async def test_agents_three_deep_get_on_with_one_worker_and_one_place(engine: Engine, limits: str):
    agent = await engine.add("x.result -> y.value", x=IN, y=OUT)
    for _ in range(3):
        agent = await engine.add("x.result -> c.x", "c.y -> y.value", x=IN, c=call(agent), y=OUT)
    if limits == "graph":
        await graph_settings.limit_runs(engine.pool, agent, 1)
    async with engine.worker(num_graph_workers=1, max_concurrent_runs=1 if limits == "server" else 0):
        run_ids = [await engine.queue(agent, x=number) for number in range(3)]
        ended = [await engine.end_of(run_id) for run_id in run_ids]
    assert [history.outputs for _, history in ended] == [{"y": [number]} for number in range(3)]
    assert _overlaps([run for run, _ in ended]) == 0


def _overlaps(ended: list[StoredRun]) -> int:
    """How many of the runs began before the one before them had ended."""
    ordered = sorted(ended, key=lambda run: str(run.started_at))
    return sum(later.started_at < earlier.ended_at for earlier, later in pairwise(ordered))
