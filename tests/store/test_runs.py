"""The queue and its fence: what makes a run belong to exactly one executor."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from backend.settings import Settings
from backend.store import control, events, executors, graphs, queue, runs
from backend.store.connection import Pool, open_pool
from backend.store.events import Entry, Event
from backend.store.identifiers import new_id
from backend.store.users import DEFAULT_USER


@pytest.fixture
async def pool(database_url: str):
    pool = await open_pool(Settings(database_url=database_url))
    yield pool
    await pool.close()


async def queue_run(pool: Pool) -> UUID:
    graph_id = uuid4()
    await graphs.insert(pool, graph_id, 1, "graph", {"nodes": []})
    return (await runs.insert(pool, new_id(), graph_id, 1, {})).id


async def claim(pool: Pool) -> tuple[UUID, runs.StoredRun]:
    executor = uuid4()
    await executors.beat(pool, executor, "test")
    [run] = await queue.claim(pool, executor, 10)
    return executor, run


def entry(run: runs.StoredRun, number: int, type: str = "node.started", **end: str) -> Entry:
    return Entry(run.id, run.attempt, [Event(number, type, "{}")], **end)


async def numbers(pool: Pool, run_id: UUID) -> list[int]:
    return [event.number for event in await events.read(pool, run_id)]


async def test_a_run_is_claimed_by_one_executor_only(pool: Pool):
    run_ids = {await queue_run(pool) for _ in range(20)}
    claimed = await asyncio.gather(*(queue.claim(pool, uuid4(), 5) for _ in range(8)))
    ids = [run.id for batch in claimed for run in batch]
    assert len(ids) == len(set(ids)) == 20
    assert set(ids) == run_ids


async def test_runs_are_claimed_oldest_first(pool: Pool):
    queued = [await queue_run(pool) for _ in range(3)]
    executor = uuid4()
    claimed = [run.id for _ in range(3) for run in await queue.claim(pool, executor, 1)]
    assert claimed == queued


async def test_no_run_starts_before_it_was_asked_for(pool: Pool):
    first = await queue_run(pool)
    await pool.execute("UPDATE runs SET limited = true")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", queue.PLACES)
        claiming = asyncio.create_task(queue.claim(pool, uuid4(), 10))
        async with asyncio.timeout(20):
            while not await pool.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
        second = await queue_run(pool)
    claimed = await claiming
    assert [run.id for run in claimed] == [first, second]
    assert all(run.started_at and run.started_at > run.created_at for run in claimed)


async def test_an_executor_that_lost_its_run_cannot_write_to_it(pool: Pool):
    await queue_run(pool)
    paused, before = await claim(pool)
    await queue.release(pool, paused)
    _, after = await claim(pool)
    assert await events.append(pool, [entry(after, 2)]) == {after.id}
    assert await events.append(pool, [entry(before, 2), entry(before, 3, status="COMPLETED")]) == set()
    assert await numbers(pool, after.id) == [1, 2]
    assert (await runs.get(pool, after.id)).status == "RUNNING"


async def test_a_lost_run_in_a_batch_does_not_hinder_the_others(pool: Pool):
    await queue_run(pool)
    await queue_run(pool)
    executor = uuid4()
    kept, lost = await queue.claim(pool, executor, 2)
    await pool.execute("UPDATE runs SET attempt = attempt + 1 WHERE id = $1", lost.id)
    assert await events.append(pool, [entry(lost, 2), entry(kept, 2)]) == {kept.id}


async def test_what_an_executor_had_to_say_of_a_run_it_lost_and_got_back_is_left_out(pool: Pool):
    await queue_run(pool)
    executor, before = await claim(pool)
    await queue.release(pool, executor)
    [after] = await queue.claim(pool, executor, 1)
    old, new = [entry(before, 2), entry(before, 3, status="COMPLETED")], entry(after, 2, "run.resumed")
    assert await events.append(pool, [*old, new]) == {after.id}
    assert [event.type for event in await events.read(pool, after.id)] == ["run.queued", "run.resumed"]
    assert (await runs.get(pool, after.id)).status == "RUNNING"


async def test_a_batch_that_is_sent_twice_is_written_once(pool: Pool):
    await queue_run(pool)
    _, run = await claim(pool)
    for _ in range(2):
        await events.append(pool, [entry(run, 2), entry(run, 3)])
    assert await numbers(pool, run.id) == [1, 2, 3]


async def test_an_ended_run_takes_no_more_events(pool: Pool):
    await queue_run(pool)
    _, run = await claim(pool)
    await events.append(pool, [entry(run, 2, "run.completed", status="COMPLETED")])
    assert await events.append(pool, [entry(run, 3)]) == set()
    assert (await runs.get(pool, run.id)).ended_at is not None


async def test_runs_of_an_executor_that_is_gone_are_rescued_and_those_of_a_living_one_are_not(pool: Pool):
    await queue_run(pool)
    gone, lost = await claim(pool)
    await executors.leave(pool, gone)
    await queue_run(pool)
    await claim(pool)
    assert await queue.rescue(pool) == [(lost.id, None)]


async def test_an_executor_that_speaks_up_at_the_last_moment_is_not_forgotten(pool: Pool):
    speaks, silent = uuid4(), uuid4()
    for id in (speaks, silent):
        await executors.beat(pool, id, "name")
    seen = await executors.heartbeats(pool)
    await executors.beat(pool, speaks, "name")
    await executors.forget(pool, seen)
    assert list(await executors.heartbeats(pool)) == [speaks]


async def test_a_queued_run_is_stopped_at_once(pool: Pool):
    run_id = await queue_run(pool)
    stopped = await control.request_stop(pool, run_id)
    assert stopped.status == "TERMINATED"
    assert [event.type for event in await events.read(pool, run_id)] == ["run.queued", "run.terminated"]
    assert await queue.claim(pool, uuid4(), 1) == []


async def test_a_running_run_is_asked_to_stop_and_its_executor_can_find_out(pool: Pool):
    run_id = await queue_run(pool)
    executor, _ = await claim(pool)
    assert (await control.request_stop(pool, run_id)).status == "RUNNING"
    assert await control.told(pool, executor) == [(control.STOP, run_id)]


async def test_stopping_an_ended_run_changes_nothing(pool: Pool):
    run_id = await queue_run(pool)
    before = await control.request_stop(pool, run_id)
    assert await control.request_stop(pool, run_id) == before
    assert await control.request_stop(pool, uuid4()) is None


async def test_pages_of_runs_neither_skip_nor_repeat_while_runs_are_added(pool: Pool):
    queued = [await queue_run(pool) for _ in range(5)]
    first = await runs.page(pool, DEFAULT_USER, limit=2)
    await queue_run(pool)
    second = await runs.page(pool, DEFAULT_USER, limit=10, before=(first[-1].created_at, first[-1].id))
    assert [run.id for run in first + second] == queued[::-1]
