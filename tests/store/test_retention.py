"""Retention: ended runs go by age and by number, with all that is theirs, and nothing else goes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from backend.settings import Settings
from backend.store import control, events, graph_settings, graphs, large_values, runs
from backend.store.connection import Pool, open_pool
from backend.store.identifiers import new_id
from backend.store.retention import AT_ONCE, delete_graphs, delete_old, delete_run, delete_surplus


@pytest.fixture
async def pool(database_url: str):
    pool = await open_pool(Settings(database_url=database_url))
    yield pool
    await pool.close()


async def add_graph(pool: Pool) -> UUID:
    return (await graphs.insert(pool, uuid4(), 1, "graph", {"nodes": []})).id


async def queued(pool: Pool, graph_id: UUID) -> UUID:
    run_id = (await runs.insert(pool, new_id(), graph_id, 1, {})).id
    await large_values.insert(pool, [(run_id, "hash", b"1")])
    return run_id


async def ended(pool: Pool, graph_id: UUID, *, days_ago: int = 0) -> UUID:
    run_id = await queued(pool, graph_id)
    await control.request_stop(pool, run_id)
    await pool.execute("UPDATE runs SET ended_at = now() - $2::interval WHERE id = $1", run_id, timedelta(days_ago))
    return run_id


async def put_below(pool: Pool, parent: UUID, *children: UUID) -> None:
    await pool.execute("UPDATE runs SET parent_run_id = $1 WHERE id = ANY($2)", parent, children)


async def left(pool: Pool) -> set[UUID]:
    """The runs that are there, and with them all that is theirs."""
    found = {row["id"] for row in await pool.fetch("SELECT id FROM runs")}
    for table in ("run_events", "run_values"):
        assert {row["run_id"] for row in await pool.fetch(f"SELECT run_id FROM {table}")} == found
    return found


async def test_old_ended_runs_are_deleted_with_their_events_and_no_others(pool: Pool):
    graph = await add_graph(pool)
    await ended(pool, graph, days_ago=40)
    kept = {await ended(pool, graph, days_ago=1), await queued(pool, graph)}
    assert await delete_old(pool, 30) == 1
    assert await left(pool) == kept
    for run_id in kept:
        assert await events.read(pool, run_id)


async def test_the_newest_ended_runs_of_each_graph_are_kept(pool: Pool):
    busy, quiet = await add_graph(pool), await add_graph(pool)
    waiting = await queued(pool, busy)
    of_busy = [await ended(pool, busy) for _ in range(5)]
    of_quiet = [await ended(pool, quiet)]
    assert await delete_surplus(pool, 2) == 3
    assert await left(pool) == {waiting, *of_busy[-2:], *of_quiet}
    assert await delete_surplus(pool, 2) == 0


@pytest.mark.parametrize(("delete", "kept"), [(delete_old, 0), (delete_surplus, 1)])
async def test_more_runs_than_are_deleted_at_once_all_go(pool: Pool, delete: Callable, kept: int):
    await pool.execute(
        "INSERT INTO runs (id, graph_id, graph_version, status, inputs, ended_at)"
        " SELECT gen_random_uuid(), $1, 1, 'FAILED', '{}', now() - interval '9 days' FROM generate_series(0, $2)",
        await add_graph(pool),
        AT_ONCE,
    )
    assert await delete(pool, 1) == AT_ONCE + 1 - kept


async def test_runs_below_others_are_not_counted_and_go_with_them(pool: Pool):
    graph = await add_graph(pool)
    old, new, *below = [await ended(pool, graph) for _ in range(6)]
    await put_below(pool, old, *below[:2])
    await put_below(pool, below[0], below[2])
    await put_below(pool, new, below[3])
    assert await delete_surplus(pool, 1) == 4
    assert await left(pool) == {new, below[3]}


@pytest.mark.parametrize("delete", [delete_old, delete_surplus])
async def test_no_run_is_deleted_while_one_below_or_above_it_is_at_work(pool: Pool, delete: Callable):
    graph = await add_graph(pool)
    above, at_work, at_work_above, below = [
        await ended(pool, graph, days_ago=9), await queued(pool, graph),
        await queued(pool, graph), await ended(pool, graph, days_ago=9),
    ]  # fmt: skip
    await put_below(pool, above, at_work)
    await put_below(pool, at_work_above, below)
    await ended(pool, graph)
    assert await delete(pool, 1) == 0
    assert await left(pool) >= {above, at_work, at_work_above, below}


async def test_a_run_that_outlived_the_one_above_it_goes_by_its_own_age(pool: Pool):
    graph = await add_graph(pool)
    await put_below(pool, uuid4(), await ended(pool, graph, days_ago=9))
    assert await delete_old(pool, 5) == 1


async def test_a_deleted_graph_goes_with_all_that_is_its_own_once_the_last_run_of_them_has_gone(pool: Pool):
    below = {"id": str(uuid4()), "version": 2, "name": "below", "description": "", "nodes": []}
    graph, kept, new = [
        (await graphs.insert(pool, uuid4(), 1, "graph", {"sub_graphs": list(found)})).id for found in ([below], [], [])
    ]
    await graph_settings.limit_runs(pool, graph, 1)
    run = await runs.insert(pool, new_id(), UUID(below["id"]), 2, {})
    await control.request_stop(pool, run.id)
    for each in (graph, new):
        await graphs.delete(pool, each)
    await pool.execute("UPDATE graphs SET deleted_at = now() - interval '2 days' WHERE id <> $1", new)
    await pool.execute("UPDATE graphs SET deleted_at = NULL WHERE id = $1", kept)
    assert await delete_graphs(pool) == 0
    assert await delete_run(pool, run.id)
    assert await delete_graphs(pool) == 1
    assert {row["id"] for row in await pool.fetch("SELECT id FROM graphs")} == {kept, new}
    assert await pool.fetchval("SELECT count(*) FROM graph_settings") == 0
