"""Runs that wait for a person: in the database, for as long as it takes, and without doing anything twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from backend.execution import executor
from backend.store import control, graph_settings, reviews, runs, waking
from backend.store.graph_settings import StoredSettings
from backend.store.identifiers import node_run_id
from backend.store.reviews import Decision, StoredReview
from tests.execution.agents import IN, OUT, REVIEW, node, parked_after
from tests.execution.engine import Engine, assert_gap_free, calls, gates


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY", 3600)


@pytest.fixture
async def reviewed(engine: Engine) -> UUID:
    """An agent that has each of its items reviewed."""
    return await engine.add(
        "x.result -> e.a", "e.out -> r.data", "r.approved_data -> p.a", "p.out -> yes.value",
        "r.rejected_data -> no.value", "r.review_message -> said.value",
        x=IN, e="each", r=node(REVIEW, name="Send it?"), p="pass", yes=OUT, no=OUT, said=OUT,
    )  # fmt: skip


async def decide(engine: Engine, review: StoredReview, approved: bool, **more: Any) -> None:
    decision = Decision(review.id, approved, more.get("message"), "data" in more, more.get("data"))
    assert await reviews.decide(engine.pool, [decision]) == {review.id}
    await waking.wake(engine.pool, review.run_id)


async def in_review(engine: Engine, graph: UUID, **inputs: Any) -> tuple[UUID, list[StoredReview]]:
    run_id = await engine.queue(graph, **inputs)
    await engine.until(run_id, parked_after("node.waiting"))
    return run_id, await reviews.of_run(engine.pool, run_id)


async def test_a_run_that_waits_for_a_decision_is_in_review_and_no_executor_has_it(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, [review] = await in_review(engine, reviewed, x=[{"to": "all"}])
        run = await runs.get(engine.pool, run_id)
    assert (run.status, run.executor) == ("REVIEW", None)
    assert (review.payload, review.instructions, review.status) == ({"to": "all"}, "Send it?", "WAITING")
    assert review.id == node_run_id(run_id, review.node_run)


async def test_after_the_decision_a_run_goes_on_without_running_anything_twice(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, [review] = await in_review(engine, reviewed, x=[1])
        await decide(engine, review, True)
        run, history = await engine.end_of(run_id)
    assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 2, {"yes": [1]})
    assert Counter(calls) == {"e": 1, "p": 1}
    started = [event.data["node_run"] for event in await engine.events(run_id) if event.type == "node.started"]
    assert len(started) == len(set(started)) == 5
    assert_gap_free(await engine.events(run_id))


async def test_what_a_person_changed_travels_on(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, [review] = await in_review(engine, reviewed, x=["draft"])
        await decide(engine, review, True, data=None, message="emptied")
        _, history = await engine.end_of(run_id)
    assert history.outputs == {"yes": [None], "said": ["emptied"]}


async def test_what_was_rejected_leaves_by_its_own_pin(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, [review] = await in_review(engine, reviewed, x=["draft"])
        await decide(engine, review, False, message="no")
        _, history = await engine.end_of(run_id)
    assert history.outputs == {"no": ["draft"], "said": ["no"]}


async def test_each_decision_has_its_own_consequences_at_once(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, asked = await in_review(engine, reviewed, x=[1, 2, 3])
        assert sorted(review.payload for review in asked) == [1, 2, 3]
        for number, review in enumerate(asked):
            await decide(engine, review, True)
            if number < 2:
                await engine.until(run_id, parked_after("run.resumed"))
                await until_review(engine, run_id, number + 1)
        run, history = await engine.end_of(run_id)
    assert (run.status, sorted(history.outputs["yes"])) == ("COMPLETED", [1, 2, 3])


async def until_review(engine: Engine, run_id: UUID, outputs: int) -> None:
    seen = Counter[str]()

    def happened(event: Any) -> bool:
        seen[event.type] += 1
        return event.type == "run.waiting" and seen["run.output"] == outputs

    await engine.until(run_id, happened)
    assert (await runs.get(engine.pool, run_id)).status == "REVIEW"


async def test_a_decision_is_acted_on_while_other_nodes_work(engine: Engine, reviewed: UUID):
    gates["g"] = asyncio.Event()
    graph = await engine.add(
        "r.approved_data -> y.value", g="gate", r=node(REVIEW, data="d", name="n"), y=OUT
    )  # fmt: skip
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "node.waiting")
        async with asyncio.timeout(10):
            while not (asked := await reviews.of_run(engine.pool, run_id)):
                pass
        await decide(engine, asked[0], True)
        await engine.until(run_id, lambda event: event.type == "run.output")
        gates["g"].set()
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 1)
    assert not any(event.type == "run.waiting" for event in await engine.events(run_id))


async def test_a_decision_that_comes_while_a_run_is_being_parked_is_not_missed(engine, reviewed: UUID, monkeypatch):
    look, decided = reviews.get, asyncio.Event()

    async def decided_just_after(connection: Any, id: UUID) -> StoredReview | None:
        review = await look(connection, id)
        if not decided.is_set():
            decided.set()
            await decide(engine, review, True)
        return review

    monkeypatch.setattr("backend.execution.waking.woken", lambda *_: asyncio.sleep(0, []))
    monkeypatch.setattr(reviews, "get", decided_just_after)
    async with engine.worker():
        run, history = await engine.run(reviewed, x=[1])
    assert (run.status, history.outputs) == ("COMPLETED", {"yes": [1]})


async def test_a_run_in_review_is_stopped_and_nobody_is_asked_any_more(engine: Engine, reviewed: UUID):
    async with engine.worker():
        run_id, _ = await in_review(engine, reviewed, x=[1])
        stopped = await control.request_stop(engine.pool, run_id)
        _, history = await engine.end_of(run_id)
    assert stopped.status == "TERMINATED"
    assert [each.status for each in history.node_runs.values()] == ["COMPLETED", "COMPLETED", "TERMINATED"]
    [review] = await reviews.of_run(engine.pool, run_id)
    assert (review.status, review.review_message) == ("REJECTED", "The run was stopped.")


async def test_more_reviews_than_nodes_may_work_at_once_are_all_asked_for(engine, reviewed: UUID, monkeypatch):
    monkeypatch.setattr("backend.execution.run.MAX_WORKING", 2)
    async with engine.worker():
        _, asked = await in_review(engine, reviewed, x=list(range(7)))
    assert len(asked) == 7


async def test_an_agent_that_needs_nobody_to_approve_goes_on_by_itself(engine: Engine, reviewed: UUID):
    await graph_settings.set_safe_modes(engine.pool, reviewed, StoredSettings(human_in_the_loop_safe_mode=False))
    async with engine.worker():
        run, history = await engine.run(reviewed, x=[{"to": "all"}])
    assert (run.status, history.outputs["yes"]) == ("COMPLETED", [{"to": "all"}])
    [review] = await reviews.of_run(engine.pool, run.id)
    assert (review.status, review.reviewed_data) == ("APPROVED", {"to": "all"})
