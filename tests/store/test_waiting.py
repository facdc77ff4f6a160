"""What runs may begin and ask for while they wait: only their owner, only while they go on, and only once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from backend.settings import Settings
from backend.store import control, events, graphs, queue, reviews, runs, waking
from backend.store.connection import Pool, open_pool
from backend.store.events import Entry
from backend.store.identifiers import child_run_id, new_id, node_run_id
from backend.store.runs import StoredRun
from backend.store.users import DEFAULT_USER


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with await open_pool(Settings(database_url=database_url)) as pool:
        yield pool


@pytest.fixture
async def owned(pool: Pool) -> StoredRun:
    """A run that an executor works on."""
    graph_id = uuid4()
    await graphs.insert(pool, graph_id, 1, "graph", {"nodes": []})
    await runs.insert(pool, new_id(), graph_id, 1, {})
    [run] = await queue.claim(pool, uuid4(), 1)
    return run


async def begin_child(pool: Pool, parent: StoredRun) -> StoredRun | None:
    id = child_run_id(parent.id, 1, 0)
    await runs.insert_child(pool, parent, 1, id, parent.graph_id, 1, {"x": 1})
    return await runs.get(pool, id)


async def ask(pool: Pool, run: StoredRun) -> UUID:
    id = node_run_id(run.id, 1)
    await reviews.insert(pool, run, id, 1, "n", {"d": 1}, "Send it?", True)
    return id


async def test_a_child_is_begun_and_a_person_asked_once(pool: Pool, owned: StoredRun):
    child = await begin_child(pool, owned)
    assert await begin_child(pool, owned) == child
    assert [event.type for event in await events.read(pool, child.id)] == ["run.queued"]
    await ask(pool, owned)
    await ask(pool, owned)
    assert await reviews.count(pool, DEFAULT_USER) == 1


async def test_an_executor_that_has_lost_its_run_begins_no_child_and_asks_nobody(pool: Pool, owned: StoredRun):
    lost = replace(owned, attempt=owned.attempt - 1)
    assert await begin_child(pool, lost) is None
    await ask(pool, lost)
    assert await reviews.count(pool, DEFAULT_USER) == 0


async def test_a_run_that_is_to_be_stopped_begins_no_child_and_asks_nobody(pool: Pool, owned: StoredRun):
    await control.request_stop(pool, owned.id)
    assert await begin_child(pool, owned) is None
    await ask(pool, owned)
    assert await reviews.count(pool, DEFAULT_USER) == 0


async def test_a_run_that_has_ended_is_not_woken(pool: Pool, owned: StoredRun):
    await events.append(pool, [Entry(owned.id, owned.attempt, [], "COMPLETED")])
    await waking.wake(pool, owned.id)
    assert (await runs.get(pool, owned.id)).status == "COMPLETED"


async def test_a_waiting_run_is_not_rescued_though_no_executor_is_left(pool: Pool, owned: StoredRun):
    await events.append(pool, [Entry(owned.id, owned.attempt, [], "RUNNING")])
    assert await queue.rescue(pool) == []
    assert (await runs.get(pool, owned.id)).status == "RUNNING"


async def test_a_run_is_marked_as_woken_until_its_executor_takes_that(pool: Pool, owned: StoredRun):
    assert owned.executor
    await waking.wake(pool, owned.id)
    for executor in uuid4(), owned.executor:
        assert await waking.woken(pool, owned.executor) == [owned.id]
        await waking.take_waking(pool, executor, owned.id)
    assert await waking.woken(pool, owned.executor) == []


async def test_a_run_claimed_after_it_was_woken_is_not_woken_again_when_it_waits(pool: Pool, owned: StoredRun):
    await waking.wake(pool, owned.id)
    await queue.release(pool, owned.executor)
    [again] = await queue.claim(pool, uuid4(), 1)
    await events.append(pool, [Entry(again.id, again.attempt, [], "REVIEW")])
    assert (await runs.get(pool, again.id)).status == "REVIEW"


async def test_a_decision_is_written_once(pool: Pool, owned: StoredRun):
    id = await ask(pool, owned)
    assert await reviews.decide(pool, [reviews.Decision(id, True, "yes", True, {"d": 2})]) == {id}
    assert await reviews.decide(pool, [reviews.Decision(id, False, "no", False, None)]) == set()
    review = await reviews.get(pool, id)
    assert (review.status, review.review_message, review.reviewed_data) == ("APPROVED", "yes", {"d": 2})
