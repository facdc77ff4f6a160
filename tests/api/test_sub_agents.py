"""An agent file that brings its sub-agents: imported, listed, run and looked into by way of the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.api.server import ECHO

CALL = "e189baac-8c20-45a1-94a7-55177ea42565"
SCHEMAS = {
    "input_schema": {"type": "object", "properties": {"Input": {}}, "required": ["Input"]},
    "output_schema": {"type": "object", "properties": {"Output": {}}, "required": ["Output"]},
}


def calling(graph_id: str, version: int, *sub_graphs: dict[str, Any]) -> dict[str, Any]:
    """An agent that has its input given back by the graph it calls."""
    call = {
        "id": "call",
        "block_id": CALL,
        "input_default": {"user_id": "u", "graph_id": graph_id, "graph_version": version, "inputs": {}, **SCHEMAS},
    }
    links = [
        {"source_id": "in", "sink_id": "call", "source_name": "result", "sink_name": "Input"},
        {"source_id": "call", "sink_id": "out", "source_name": "Output", "sink_name": "value"},
    ]
    return {"name": "Caller", "nodes": [*ECHO["nodes"], call], "links": links, "sub_graphs": list(sub_graphs)}


BELOW = ECHO | SCHEMAS | {"id": "below", "version": 6}


async def stored(api: Any, file: dict[str, Any]) -> dict[str, Any]:
    async with api.post("/api/v2/graphs", json=file) as answer:
        assert answer.status == 201
        return await answer.json()


async def run(api: Any, graph: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/v2/graphs/{graph['id']}/runs?wait=20"
    async with api.post(path, json={"inputs": {"Input": "x"}}) as answer:
        return await answer.json()


async def got(api: Any, path: str) -> Any:
    async with api.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


@pytest.mark.parametrize("called", ["below", "an id that is not in the file"])
async def test_an_agent_file_with_a_sub_agent_runs_as_it_comes(api: Any, executor: None, called: str):
    graph = await stored(api, calling(called, 6, BELOW))
    assert graph["problems"] == []
    answered = await run(api, graph)
    assert (answered["status"], answered["outputs"]) == ("COMPLETED", {"Output": ["x"]})


async def test_a_run_below_another_is_found_by_it_and_counted_with_it(api: Any, executor: None):
    answered = await run(api, await stored(api, calling("below", 6, BELOW)))
    [below] = (await got(api, f"/api/v2/runs?parent_run_id={answered['id']}"))["items"]
    [call] = [each for each in answered["node_executions"] if each["block_id"] == CALL]
    assert (below["parent_run_id"], below["parent_node_exec_id"]) == (answered["id"], call["id"])
    assert (answered["parent_run_id"], answered["parent_node_exec_id"]) == (None, None)
    assert (below["node_exec_count"], answered["node_exec_count"]) == (2, 3 + 2)
    listed = {each["id"]: each["node_exec_count"] for each in (await got(api, "/api/v2/runs"))["items"]}
    assert listed == {below["id"]: 2, answered["id"]: 5}


async def test_a_sub_agent_is_shown_and_runs_alone_but_is_not_listed(api: Any, executor: None):
    graph = await stored(api, calling("below", 6, BELOW))
    [below] = graph["sub_graphs"]
    listed = await got(api, "/api/v2/graphs")
    assert ([each["id"] for each in listed["items"]], listed["total_count"]) == ([graph["id"]], 1)
    assert (await got(api, f"/api/v2/graphs/{below['id']}"))["version"] == 6
    assert (await run(api, below))["outputs"] == {"Output": ["x"]}


async def test_a_sub_agent_may_call_the_agent_it_came_with(api: Any):
    again = calling("top", 58) | {"id": "below", "version": 2}
    graph = await stored(api, calling("below", 2, again) | {"id": "top", "version": 58})
    assert (graph["version"], graph["problems"]) == (1, [])
    [call] = [node for node in graph["sub_graphs"][0]["nodes"] if node["block_id"] == CALL]
    assert (call["input_default"]["graph_id"], call["input_default"]["graph_version"]) == (graph["id"], 1)


async def test_an_agent_that_is_on_this_server_can_be_called(api: Any, executor: None):
    below = await stored(api, ECHO)
    graph = await stored(api, calling(below["id"], 1))
    assert graph["problems"] == []
    assert (await run(api, graph))["outputs"] == {"Output": ["x"]}


@pytest.mark.parametrize(("called", "version"), [(str(UUID(int=7)), 3), ("no id", 3), (str(UUID(int=7)), True)])
async def test_a_call_of_an_agent_that_is_not_here_keeps_the_graph_from_running(api: Any, called: str, version: int):
    graph = await stored(api, calling(called, version))
    [problem] = graph["problems"]
    assert (problem["code"], problem["pin"]) == ("unknown_graph", "graph_id")
    assert f"{called} in version {version}, which is not here: import it" in problem["message"]
    refused = await run(api, graph)
    assert (refused["code"], refused["problems"]) == ("graph_not_runnable", [problem])
