"""Agent files in, graphs out, and the way back."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path

import orjson
import pytest

from tests.api.server import ECHO

GRAPHS = "/api/v2/graphs"
NOBODY = "01890000-0000-7000-8000-000000000000"


async def test_a_stored_file_is_answered_with_its_schemas_and_found_again(api):
    async with api.post(GRAPHS, json=ECHO) as answer:
        graph = await answer.json()
        assert answer.status == 201
        assert answer.headers["Location"] == f"{GRAPHS}/{graph['id']}"
    assert graph["problems"] == []
    assert graph["input_schema"]["required"] == ["Input"]
    assert list(graph["output_schema"]["properties"]) == ["Output"]
    assert (graph["version"], graph["is_active"]) == (1, True)
    async with api.get(answer.headers["Location"]) as shown:
        assert await shown.json() == graph


async def test_a_file_may_be_wrapped_as_graph(api):
    async with api.post(GRAPHS, json={"graph": ECHO}) as answer:
        assert (answer.status, (await answer.json())["name"]) == (201, "Echo")


async def test_every_shared_agent_is_stored_and_its_export_imports_to_the_same_graph(api, shared_agents: Path):
    for file in sorted(shared_agents.glob("*.json")):  # noqa: ASYNC240 - a folder of this machine
        async with api.post(GRAPHS, data=file.read_bytes(), headers={"Content-Type": "application/json"}) as answer:
            first = await answer.json()
            assert answer.status == 201, first
        async with api.get(f"{GRAPHS}/{first['id']}/export") as answer:
            assert "attachment" in answer.headers["Content-Disposition"]
            exported = await answer.json()
        async with api.post(GRAPHS, json=exported) as answer:
            second = await answer.json()
        for same in ("name", "description", "input_schema", "output_schema"):
            assert second[same] == first[same]
        assert [len(second[part]) for part in ("nodes", "links")] == [len(first[part]) for part in ("nodes", "links")]


async def test_a_file_that_cannot_run_is_stored_with_its_problems_and_refused_as_a_run(api, shared_agents: Path):
    raw = (shared_agents / "async-bug-graph-2024.json").read_bytes()
    async with api.post(GRAPHS, data=raw, headers={"Content-Type": "application/json"}) as answer:
        graph = await answer.json()
        assert answer.status == 201
    assert "unknown_block" in {problem["code"] for problem in graph["problems"]}
    async with api.post(f"{GRAPHS}/{graph['id']}/runs", json={"inputs": {}}) as answer:
        refusal = await answer.json(content_type=None)
        assert (answer.status, refusal["code"]) == (422, "graph_not_runnable")
    assert refusal["problems"] == graph["problems"]


def changed(**parts: object) -> bytes:
    return orjson.dumps(ECHO | parts)


node, link = ECHO["nodes"][0], ECHO["links"][0]

BAD_FILES = {
    "not JSON": (b"{nonsense", 400, "malformed_json", ""),
    "nothing": (b"", 400, "malformed_json", ""),
    "NaN": (b'{"nodes": [], "x": NaN}', 422, "invalid_graph_file", ""),
    "half a character": (b'{"nodes": [], "name": "\\ud800"}', 422, "invalid_graph_file", ""),
    "U+0000": (b'{"nodes": [], "name": "\\u0000"}', 422, "invalid_graph_file", "/name"),
    "no object": (b"[1]", 422, "invalid_graph_file", ""),
    "deep": (b'{"nodes": ' + b"[" * 2000 + b"]" * 2000 + b"}", 422, "invalid_graph_file", ""),
    "a link to nowhere": (changed(links=[link | {"sink_id": "nobody"}]), 422, "invalid_graph_file", "/links/0/sink_id"),
    "one id twice": (changed(nodes=[node, node], links=[]), 422, "invalid_graph_file", "/nodes/1/id"),
    "nodes no list": (changed(nodes={}), 422, "invalid_graph_file", "/nodes"),
}


@pytest.mark.parametrize("name", BAD_FILES)
async def test_a_bad_file_is_refused_and_the_part_that_is_wrong_named(api, name):
    body, status, code, pointer = BAD_FILES[name]
    async with api.post(GRAPHS, data=BytesIO(body), headers={"Content-Type": "application/json"}) as answer:
        assert answer.content_type == "application/problem+json"
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"], problem["status"]) == (status, code, status), problem
    assert pointer in [error["pointer"] for error in problem.get("errors", [{"pointer": ""}])]


async def test_a_pin_that_is_not_there_is_a_problem_and_a_block_id_in_capitals_is_none(api):
    capital = [node | {"block_id": node["block_id"].upper()}, ECHO["nodes"][1]]
    async with api.post(GRAPHS, data=changed(nodes=capital), headers={"Content-Type": "application/json"}) as answer:
        assert (await answer.json())["problems"] == []
    wrong = [link | {"source_name": "nothing"}]
    async with api.post(GRAPHS, data=changed(links=wrong), headers={"Content-Type": "application/json"}) as answer:
        (problem,) = (await answer.json())["problems"]
    assert (problem["code"], problem["pin"]) == ("unknown_pin", "nothing")


async def test_a_client_that_sends_twenty_megabytes_before_it_listens_is_told_that_they_are_too_many(rest_address: str):
    host, port = rest_address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {GRAPHS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n".encode())
    for _ in range(20):
        writer.write(b"x" * 1_000_000)
        await writer.drain()
    assert b"413" in await reader.readline()
    assert b"too_large" in await reader.readuntil(b"}")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
async def test_a_body_that_does_not_say_it_is_json_is_refused(api, content_type):
    async with api.post(GRAPHS, data=b"{}", headers={"Content-Type": content_type}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("where", "status", "code"),
    [
        (NOBODY, 404, "unknown_graph"),
        (f"{NOBODY}/export", 404, "unknown_graph"),
        ("no-id", 404, "not_found"),
        (f"{NOBODY}?version=x", 422, "invalid_request"),
        (f"{NOBODY}?version={2**31}", 422, "invalid_request"),
    ],
)
async def test_what_is_not_there_is_told(api, where, status, code):
    async with api.get(f"{GRAPHS}/{where}") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (status, code)


async def test_pages_neither_skip_nor_repeat_while_graphs_are_added(api):
    async def add() -> str:
        async with api.post(GRAPHS, json=ECHO) as answer:
            return (await answer.json())["id"]

    ids = [await add() for _ in range(5)]
    seen: list[str] = []
    params = {"limit": "2"}
    while True:
        async with api.get(GRAPHS, params=params) as answer:
            page = await answer.json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
        await add()
    assert seen == ids[::-1]
    assert page["total_count"] == 5 + 2


@pytest.mark.parametrize("cursor", ["x", "%00", "bm90IG91cnM", "0" * 201])
async def test_a_cursor_of_somebody_else_is_refused(api, cursor):
    async with api.get(GRAPHS, params={"cursor": cursor}) as answer:
        assert answer.status in (400, 422)
