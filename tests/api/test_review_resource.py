"""Reviews by way of the API: listed, decided once, and refused in words where they cannot be."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.api.server import ECHO

REVIEW = "8b2a7b3c-6e9d-4a5f-8c1b-2e3f4a5b6c7d"


def reviewing(**pins: Any) -> dict[str, Any]:
    """An agent that gives back its input once it is approved."""
    review = {"id": "review", "block_id": REVIEW, "input_default": {"name": "Send it?", **pins}}
    links = [
        {"source_id": "in", "sink_id": "review", "source_name": "result", "sink_name": "data"},
        {"source_id": "review", "sink_id": "out", "source_name": "approved_data", "sink_name": "value"},
    ]
    return {"name": "Reviewed", "nodes": [*ECHO["nodes"], review], "links": links}


@pytest.fixture
def in_review(api: Any, executor: None, until_review: Any):
    """Run an agent until it waits for a decision; gives its run and the review."""

    async def begin(**pins: Any) -> tuple[str, dict[str, Any]]:
        async with api.post("/api/v2/graphs", json=reviewing(**pins)) as answer:
            graph = await answer.json()
        assert (graph["problems"], graph["has_human_in_the_loop"]) == ([], True)
        async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json={"inputs": {"Input": "draft"}}) as answer:
            run_id = (await answer.json())["id"]
        await until_review(run_id)
        [review] = (await got(api, f"/api/v2/runs/reviews?run_id={run_id}&status=WAITING"))["items"]
        return run_id, review

    return begin


@pytest.fixture
def until_review(api: Any):
    async def wait(run_id: str) -> None:
        async with api.get(f"/api/v2/runs/{run_id}/events") as stream:
            async for line in stream.content:
                if line == b"event: run.waiting\n":
                    return

    return wait


async def got(api: Any, path: str) -> Any:
    async with api.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def decide(api: Any, run_id: str, *decisions: dict[str, Any]) -> tuple[int, Any]:
    async with api.post(f"/api/v2/runs/{run_id}/reviews", json={"reviews": decisions}) as answer:
        return answer.status, await answer.json(content_type=None)


async def end_of(api: Any, run_id: str) -> Any:
    async with api.get(f"/api/v2/runs/{run_id}/events") as stream:
        await stream.read()
    return await got(api, f"/api/v2/runs/{run_id}")


async def test_a_run_in_review_says_so_and_what_is_to_be_decided(api: Any, in_review: Any):
    run_id, review = await in_review()
    run = await got(api, f"/api/v2/runs/{run_id}")
    [node] = [each for each in run["node_executions"] if each["block_id"] == REVIEW]
    assert (run["status"], node["status"]) == ("REVIEW", "REVIEW")
    assert (review["node_exec_id"], review["run_id"], review["graph_id"]) == (node["id"], run_id, run["graph_id"])
    assert (review["payload"], review["instructions"], review["editable"]) == ("draft", "Send it?", True)
    assert [each["id"] for each in (await got(api, "/api/v2/runs?status=REVIEW"))["items"]] == [run_id]


async def test_what_is_approved_goes_on_as_it_was_or_as_it_was_changed(api: Any, in_review: Any):
    for change, expected in (
        ({}, "draft"),
        ({"reviewed_data": {"final": 1}}, {"final": 1}),
        ({"reviewed_data": None}, None),
    ):
        run_id, review = await in_review()
        decision = {"node_exec_id": review["node_exec_id"], "approved": True, **change}
        assert await decide(api, run_id, decision) == (
            202,
            {"run_id": run_id, "approved_count": 1, "rejected_count": 0},
        )
        run = await end_of(api, run_id)
        assert (run["status"], run["outputs"]) == ("COMPLETED", {"Output": [expected]})
        [decided] = (await got(api, f"/api/v2/runs/reviews?run_id={run_id}"))["items"]
        assert (decided["status"], decided["reviewed_data"], decided["was_edited"]) == (
            "APPROVED",
            expected,
            bool(change),
        )


async def test_what_is_rejected_does_not_go_on(api: Any, in_review: Any):
    run_id, review = await in_review()
    status, answered = await decide(
        api, run_id, {"node_exec_id": review["node_exec_id"], "approved": False, "message": "no"}
    )
    assert (status, answered["rejected_count"]) == (202, 1)
    run = await end_of(api, run_id)
    assert (run["status"], run["outputs"]) == ("COMPLETED", {})
    [node] = [each for each in run["node_executions"] if each["block_id"] == REVIEW]
    assert (node["status"], node["outputs"]) == ("COMPLETED", {"rejected_data": ["draft"], "review_message": ["no"]})


async def test_a_decision_is_made_once(api: Any, in_review: Any):
    run_id, review = await in_review()
    assert (await decide(api, run_id, {"node_exec_id": review["node_exec_id"], "approved": True}))[0] == 202
    status, problem = await decide(api, run_id, {"node_exec_id": review["node_exec_id"], "approved": False})
    assert (status, problem["code"]) == (409, "already_decided")
    assert "has been decided already: it is APPROVED" in problem["detail"]
    assert (await end_of(api, run_id))["outputs"] == {"Output": ["draft"]}


async def test_a_run_that_was_stopped_takes_no_decision(api: Any, in_review: Any):
    run_id, review = await in_review()
    async with api.post(f"/api/v2/runs/{run_id}/stop") as answer:
        assert (await answer.json())["status"] == "TERMINATED"
    status, problem = await decide(api, run_id, {"node_exec_id": review["node_exec_id"], "approved": True})
    assert (status, problem["code"]) == (409, "run_ended")
    assert "TERMINATED" in problem["detail"]
    assert (await got(api, "/api/v2/runs/reviews?status=WAITING"))["items"] == []


async def test_data_that_may_not_be_changed_is_not(api: Any, in_review: Any):
    run_id, review = await in_review(editable=False)
    changed = {"node_exec_id": review["node_exec_id"], "approved": True, "reviewed_data": 1}
    status, problem = await decide(api, run_id, changed)
    assert (status, problem["code"]) == (422, "not_editable")
    assert (await got(api, f"/api/v2/runs/{run_id}"))["status"] == "REVIEW"


async def test_of_decisions_of_which_one_is_refused_none_is_made(api: Any, in_review: Any):
    run_id, review = await in_review()
    known = {"node_exec_id": review["node_exec_id"], "approved": True}
    status, problem = await decide(api, run_id, known, {"node_exec_id": str(uuid4()), "approved": True})
    assert (status, problem["code"]) == (404, "unknown_review")
    status, problem = await decide(api, run_id, known, known)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert (await got(api, "/api/v2/runs/reviews?status=WAITING"))["total_count"] == 1


async def test_a_decision_for_a_run_that_is_not_there(api: Any):
    status, problem = await decide(api, str(uuid4()), {"node_exec_id": str(uuid4()), "approved": True})
    assert (status, problem["code"]) == (404, "unknown_run")


async def test_reviews_are_listed_page_by_page(api: Any, in_review: Any):
    asked = [(await in_review())[1]["node_exec_id"] for _ in range(3)]
    first = await got(api, "/api/v2/runs/reviews?limit=2")
    second = await got(api, f"/api/v2/runs/reviews?limit=2&cursor={first['next_cursor']}")
    listed = [each["node_exec_id"] for each in first["items"] + second["items"]]
    assert (listed, second["next_cursor"], first["total_count"]) == (asked[::-1], None, 3)
