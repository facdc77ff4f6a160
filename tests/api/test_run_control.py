"""How a run is begun and steered: by priority, with values for nodes, with limits; paused and resumed."""

from __future__ import annotations

from typing import Any

import pytest

from backend.store.connection import Pool
from tests.api.server import ECHO

NOBODY = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
async def graph(api) -> dict[str, Any]:
    """A stored graph that gives back its input."""
    async with api.post("/api/v2/graphs", json=ECHO) as answer:
        return await answer.json()


async def start(api, graph: dict[str, Any], **body: Any) -> dict[str, Any]:
    body = {"inputs": {"Input": 5}} | body
    async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json=body) as answer:
        assert answer.status == 202, await answer.text()
        return await answer.json()


async def ended(api, run: dict[str, Any]) -> dict[str, Any]:
    async with api.get(f"/api/v2/runs/{run['id']}/events") as stream:
        await stream.read()
    async with api.get(f"/api/v2/runs/{run['id']}") as answer:
        return await answer.json()


async def test_a_paused_run_rests_while_others_run_until_it_is_resumed(api, graph, executor):
    async with api.patch(f"/api/v2/graphs/{graph['id']}/settings", json={"max_concurrent_runs": 1}) as answer:
        assert answer.status == 200
    key = {"concurrency_key": "one at a time"}
    first, second = await start(api, graph, **key), await start(api, graph, **key)
    async with api.post(f"/api/v2/runs/{second['id']}/pause") as answer:
        paused = await answer.json()
    await ended(api, first)
    third = await start(api, graph, **key)
    assert (await ended(api, third))["status"] == "COMPLETED"
    async with api.post(f"/api/v2/runs/{paused['id']}/resume") as answer:
        assert (answer.status, (await answer.json())["paused"]) == (202, False)
    assert (await ended(api, second))["status"] == "COMPLETED"


async def test_a_run_that_is_not_there_is_neither_paused_nor_resumed(api):
    for what in ("pause", "resume"):
        async with api.post(f"/api/v2/runs/{NOBODY}/{what}") as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "unknown_run")


async def test_a_run_is_deleted_with_all_that_it_did_once_it_has_ended(api, graph, executor, database: Pool):
    run = await ended(api, await start(api, graph))
    for status, code in ((204, None), (404, "unknown_run")):
        async with api.delete(f"/api/v2/runs/{run['id']}") as answer:
            assert answer.status == status
            assert not code or (await answer.json())["code"] == code
    assert await database.fetchval("SELECT count(*) FROM run_events") == 0


async def test_a_run_that_has_not_ended_is_not_deleted(api, graph):
    run = await start(api, graph)
    async with api.delete(f"/api/v2/runs/{run['id']}") as answer:
        assert (answer.status, (await answer.json())["code"]) == (409, "run_not_ended")


async def test_a_queued_run_that_is_paused_tells_so(api, graph, database: Pool):
    run = await start(api, graph)
    async with api.post(f"/api/v2/runs/{run['id']}/pause") as answer:
        found = await answer.json()
    assert (found["status"], found["paused"]) == ("QUEUED", True)
    types = [row["type"] for row in await database.fetch("SELECT type FROM run_events ORDER BY number")]
    assert types == ["run.queued", "run.paused"]


async def test_values_for_nodes_take_the_place_of_whatever_comes_to_them(api, graph, executor):
    by_name = {node["input_default"]["name"]: node["id"] for node in graph["nodes"]}
    run = await start(api, graph, nodes_input_masks={by_name["Output"]: {"value": "masked"}})
    assert (await ended(api, run))["outputs"] == {"Output": ["masked"]}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"nodes_input_masks": {"nobody": {"a": 1}}}, "invalid_inputs", "has no node nobody"),
        ({"nodes_input_masks": {"Output": {"nothing": 1}}}, "invalid_inputs", "is none of its pins"),
        ({"priority": 101}, "invalid_request", "priority"),
        ({"concurrency_key": ""}, "invalid_request", "concurrency_key"),
        ({"concurrency_key": "nul \0"}, "invalid_request", "concurrency_key"),
        ({"concurrency_key": "k", "concurrency_limit": 0}, "invalid_request", "concurrency_limit"),
    ],
)
async def test_a_run_that_cannot_begin_so_is_refused(api, graph, body: dict[str, Any], code: str, said: str):
    by_name = {node["input_default"]["name"]: node["id"] for node in graph["nodes"]}
    if masks := body.get("nodes_input_masks"):
        body = {"nodes_input_masks": {by_name.get(name, name): mask for name, mask in masks.items()}}
    async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json={"inputs": {"Input": 1}} | body) as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (422, code)
    assert said in problem["detail"]


async def test_priority_and_key_are_shown_and_outlive_a_rerun(api, graph, executor):
    run = await start(api, graph, priority=7, concurrency_key="customer 1")
    done = await ended(api, run)
    async with api.post(f"/api/v2/runs/{done['id']}/rerun") as answer:
        again = await answer.json()
    shown = [(each["priority"], each["concurrency_key"], each["paused"]) for each in (run, done, again)]
    assert shown == [(7, "customer 1", False)] * 3


async def test_the_limit_of_a_graph_is_shown_and_lifted(api, graph):
    settings = f"/api/v2/graphs/{graph['id']}/settings"
    for body, expected in (({"max_concurrent_runs": 2}, 2), ({}, 2), ({"max_concurrent_runs": None}, None)):
        async with api.patch(settings, json=body) as answer:
            assert (answer.status, (await answer.json())["max_concurrent_runs"]) == (200, expected)
        async with api.get(settings) as answer:
            assert (await answer.json())["max_concurrent_runs"] == expected
    async with api.patch(settings, json={"max_concurrent_runs": 0}) as answer:
        assert answer.status == 422
    async with api.get(f"/api/v2/graphs/{NOBODY}/settings") as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "unknown_graph")
