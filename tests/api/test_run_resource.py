"""Runs: started, waited for, listed, shown, stopped, with a real executor."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.api.server import ECHO

RUNS = "/api/v2/runs"
NOBODY = "01890000-0000-7000-8000-000000000000"


async def test_a_run_that_is_waited_for_is_answered_with_its_outputs_and_node_executions(api, executor, echo):
    async with api.post(echo, json={"inputs": {"Input": 5}}, params={"wait": "30"}) as answer:
        run = await answer.json()
        assert (answer.status, run["status"], run["outputs"]) == (200, "COMPLETED", {"Output": [5]})
        location = answer.headers["Location"]
    assert [node["status"] for node in run["node_executions"]] == ["COMPLETED", "COMPLETED"]
    assert run["node_executions"][0]["outputs"] == {"result": [5]}
    assert (run["node_exec_count"], run["attempt"], run["error"]) == (2, 1, None)
    assert run["duration_seconds"] >= 0
    async with api.get(location) as answer:
        assert await answer.json() == run


async def test_the_shared_calculator_gives_39_for_5(api, executor, shared_agents: Path):
    raw = (shared_agents / "calculator-agent.json").read_bytes()
    async with api.post("/api/v2/graphs", data=raw, headers={"Content-Type": "application/json"}) as answer:
        graph = await answer.json()
    runs = f"/api/v2/graphs/{graph['id']}/runs"
    async with api.post(runs, json={"inputs": {"Input": 5}}, params={"wait": 30}) as answer:
        assert (await answer.json())["outputs"] == {"Output": [39]}


async def test_a_failed_run_tells_what_it_failed_for_what_never_ran_and_what_lost_something(api, executor):
    calculator = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
    add = {"id": "d", "block_id": calculator, "input_default": {"operation": "Add", "a": 1}}
    item = {"id": "i", "block_id": "262ca24c-1025-43cf-a578-534e23234e97", "input_default": {"list": [1], "index": 9}}
    nodes = [*ECHO["nodes"], add, item]
    links = [
        ECHO["links"][0],
        {"id": "1", "source_id": "in", "sink_id": "d", "source_name": "result", "sink_name": "b"},
        {"id": "2", "source_id": "i", "sink_id": "out", "source_name": "item", "sink_name": "title"},
    ]
    async with api.post("/api/v2/graphs", json={"name": "Fails", "nodes": nodes, "links": links}) as answer:
        graph = await answer.json()
    by_block = {node["block_id"]: node["id"] for node in graph["nodes"]}
    runs = f"/api/v2/graphs/{graph['id']}/runs"
    async with api.post(runs, json={"inputs": {"Input": "abc"}}, params={"wait": 30}) as answer:
        run = await answer.json()
    assert run["status"] == "FAILED"
    assert (run["failure"]["node_id"], run["failure"]["inputs"]) == (by_block[item["block_id"]], {"list": "[1]", "index": "9"})  # fmt: skip  # noqa: E501
    assert run["failure"]["error"] in run["error"]
    (never,) = run["never_ran"]
    assert never["node_id"] == by_block[ECHO["nodes"][1]["block_id"]]
    assert never["reason"].endswith("failed")
    assert [each["pins"] for each in run["waiting"]] == [["title"]]
    assert [warning["message"] for warning in run["warnings"]] == ["b: ‘abc’ is not a number, 0 is taken"]


async def test_a_run_begins_at_once_and_is_told_as_queued(api, echo):
    async with api.post(echo, json={"inputs": {"Input": 5}}) as answer:
        run = await answer.json()
        assert (answer.status, run["status"], run["outputs"]) == (202, "QUEUED", {})
    async with api.get(answer.headers["Location"]) as answer:
        assert await answer.json() == run


async def test_a_run_that_takes_longer_than_the_wait_is_shown_as_it_is(api, echo):
    async with api.post(echo, json={"inputs": {"Input": 5}}, params={"wait": "0.05"}) as answer:
        assert (answer.status, (await answer.json())["status"]) == (202, "QUEUED")


@pytest.mark.parametrize(
    ("inputs", "code", "pin"),
    [
        ({"Inptu": 5}, "unknown_input", "Inptu"),
        ({}, "missing_input", "Input"),
    ],
)
async def test_wrong_inputs_are_refused_by_name(api, echo, inputs, code, pin):
    async with api.post(echo, json={"inputs": inputs}) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (422, "invalid_inputs")
    assert (code, pin) in [(each["code"], each["pin"]) for each in problem["problems"]]
    assert pin in problem["detail"]


async def test_a_value_of_the_wrong_type_is_refused(api):
    number = ECHO["nodes"][0] | {"block_id": "96dae2bb-97a2-41c2-bd2f-13a3b5a8ea98"}
    async with api.post("/api/v2/graphs", json=ECHO | {"nodes": [number, ECHO["nodes"][1]]}) as answer:
        graph = await answer.json()
    async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json={"inputs": {"Input": "abc"}}) as answer:
        (problem,) = (await answer.json(content_type=None))["problems"]
    assert (answer.status, problem["code"], problem["pin"]) == (422, "invalid_value", "Input")


BAD_BODIES = {
    "null": (b"null", "application/json", 422, "invalid_request"),
    "not JSON": (b"{", "application/json", 400, "malformed_json"),
    "NaN": (b'{"inputs": {"Input": NaN}}', "application/json", 400, "malformed_json"),
    "half a character": (b'{"inputs": {"Input": "\\ud800"}}', "application/json", 400, "malformed_json"),
    "U+0000": (b'{"inputs": {"Input": "\\u0000"}}', "application/json", 422, "invalid_request"),
    "deep": (b'{"inputs": {"Input": ' + b"[" * 500 + b"]" * 500 + b"}}", "application/json", 422, "invalid_request"),
    "a list": (b"[]", "application/json", 422, "invalid_request"),
    "inputs no object": (b'{"inputs": 5}', "application/json", 422, "invalid_request"),
    "text": (b"Input=5", "text/plain", 415, "unsupported_media_type"),
    "large": (b'{"inputs": {"Input": "' + b"x" * 17_000_000 + b'"}}', "application/json", 413, "too_large"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_refused(api, echo, name):
    body, content_type, status, code = BAD_BODIES[name]
    async with api.post(echo, data=BytesIO(body), headers={"Content-Type": content_type}) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (status, code), problem


@pytest.mark.parametrize("wait", ["-1", "301", "nan", "x"])
async def test_a_wait_out_of_bounds_is_refused_by_name(api, echo, wait):
    async with api.post(echo, json={"inputs": {"Input": 5}}, params={"wait": wait}) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["errors"][0]["parameter"]) == (422, "wait")


@pytest.mark.parametrize("action", ["", "/events", "/stop"])
async def test_a_run_that_is_not_there_and_an_id_that_is_none(api, action):
    method = api.post if action == "/stop" else api.get
    async with method(f"{RUNS}/{NOBODY}{action}") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_run")
    async with method(f"{RUNS}/no-id{action}") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "not_found")


async def test_stopping_a_run_ends_it_and_stopping_it_again_does_no_harm(api, echo):
    async with api.post(echo, json={"inputs": {"Input": 5}}) as answer:
        location = answer.headers["Location"]
    for _ in range(2):
        async with api.post(f"{location}/stop") as answer:
            assert (answer.status, (await answer.json())["status"]) == (202, "TERMINATED")


async def test_runs_are_listed_by_graph_and_status(api, echo, start_run):
    other = await start_run()
    await other.begin_node(1)
    async with api.post(echo, json={"inputs": {"Input": 5}}) as answer:
        run = await answer.json()

    async def listed(*filters: tuple[str, str]) -> list[tuple[str, int]]:
        async with api.get(RUNS, params=filters) as answer:
            page: dict[str, Any] = await answer.json()
        assert page["total_count"] == len(page["items"])
        return [(item["id"], item["node_exec_count"]) for item in page["items"]]

    assert await listed() == [(run["id"], 0), (str(other.id), 1)]
    assert await listed(("graph_id", str(other.graph_id))) == [(str(other.id), 1)]
    assert await listed(("status", "QUEUED")) == [(run["id"], 0)]
    assert len(await listed(("status", "QUEUED"), ("status", "RUNNING"))) == 2
    assert await listed(("status", "FAILED")) == []


async def test_a_client_that_waits_and_leaves_does_not_stop_the_run(api, echo, start_run):
    run = await start_run()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), api.get(f"{RUNS}/{run.id}/events") as answer:
            await answer.read()
    await run.complete()
    async with api.get(f"{RUNS}/{run.id}") as answer:
        assert (await answer.json())["status"] == "COMPLETED"
