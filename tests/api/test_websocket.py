"""The WebSocket protocol of AutoGPT's clients, and what it does better: nothing is missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from backend.store import runs
from backend.store.connection import Pool
from backend.store.identifiers import new_id

PATIENCE = aiohttp.ClientWSTimeout(ws_receive=20)
USER = "3e53486c-cf57-477e-ba2a-cb02dc828e1a"


@pytest.fixture
async def socket(websocket_address: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"ws://{websocket_address}/ws"
    async with aiohttp.ClientSession() as client, client.ws_connect(url, timeout=PATIENCE) as socket:
        yield socket


async def ask(socket: aiohttp.ClientWebSocketResponse, method: str, **data: Any) -> dict[str, Any]:
    await socket.send_json({"method": method, "data": data})
    return await socket.receive_json()


async def test_a_heartbeat_is_answered(socket):
    assert await ask(socket, "heartbeat") == {"method": "heartbeat", "success": True, "data": "pong"}


async def test_a_follower_is_shown_all_there_is_and_then_each_change(socket, start_run):
    run = await start_run()
    await run.begin_node(1, a=1)
    await run.put_out(1, "result", 7)
    channel = f"{USER}|graph_exec#{run.id}"
    acknowledged = {"method": "subscribe_graph_execution", "success": True, "channel": channel}
    assert await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id)) == acknowledged

    node, whole = await socket.receive_json(), await socket.receive_json()
    assert (node["method"], node["channel"]) == ("node_execution_event", channel)
    assert (node["data"]["status"], node["data"]["output_data"]) == ("RUNNING", {"result": [7]})
    assert (node["data"]["graph_exec_id"], node["data"]["input_data"]) == (str(run.id), {"a": 1})
    assert (whole["method"], whole["data"]["id"]) == ("graph_execution_event", str(run.id))
    assert (whole["data"]["status"], whole["data"]["inputs"]) == ("RUNNING", {"Input": 5})

    await run.complete_node(1)
    node = await socket.receive_json()
    assert (node["data"]["status"], node["data"]["event_type"]) == ("COMPLETED", "node_execution_update")
    assert node["data"]["end_time"] is not None
    await run.write("run.output", name="Output", value=7, node_run=1)
    assert (await socket.receive_json())["data"]["outputs"] == {"Output": [7]}
    await run.complete()
    whole = await socket.receive_json()
    assert (whole["data"]["status"], whole["data"]["outputs"]) == ("COMPLETED", {"Output": [7]})
    assert whole["data"]["started_at"] <= whole["data"]["ended_at"]


async def test_a_follower_that_comes_back_is_told_what_it_missed_and_nothing_else(socket, start_run):
    run = await start_run()
    await run.begin_node(1)
    seen = await run.put_out(1, "result", 7) or run.number
    await run.complete_node(1)
    await run.complete()
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id), last_event_id=seen)
    missed = [await socket.receive_json(), await socket.receive_json()]
    assert [(each["event_id"], each["data"]["status"]) for each in missed] == [
        (seen + 1, "COMPLETED"),
        (seen + 2, "COMPLETED"),
    ]
    assert missed[0]["data"]["output_data"] == {"result": [7]}
    assert (await ask(socket, "heartbeat"))["data"] == "pong"


async def test_what_is_unsubscribed_is_silent(socket, start_run):
    run = await start_run()
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id))
    await socket.receive_json()
    left = await ask(socket, "unsubscribe", graph_exec_id=str(run.id))
    assert (left["method"], left["success"]) == ("unsubscribe", True)
    await run.complete()
    assert (await ask(socket, "heartbeat"))["data"] == "pong"


async def test_the_runs_of_a_graph_are_told_as_they_begin_and_end(socket, start_run, database: Pool):
    first = await start_run()
    followed = await ask(socket, "subscribe_graph_executions", graph_id=str(first.graph_id))
    assert followed["channel"] == f"{USER}|graph#{first.graph_id}|executions"

    async def told() -> tuple[str, str]:
        message = await socket.receive_json()
        assert message["method"] == "graph_execution_event"
        return message["data"]["id"], message["data"]["status"]

    assert await told() == (str(first.id), "RUNNING")
    second = await runs.insert(database, new_id(), first.graph_id, 1, {})
    assert await told() == (str(second.id), "QUEUED")
    await first.write("run.output", name="Output", value=7, node_run=1)
    await first.complete()
    assert await told() == (str(first.id), "COMPLETED")


async def test_a_follower_of_a_graph_that_comes_back_is_told_what_it_missed_and_nothing_else(socket, start_run):
    run = await start_run()
    subscription = {"graph_id": str(run.graph_id)}
    await ask(socket, "subscribe_graph_executions", **subscription)
    last = (await socket.receive_json())["event_id"]
    await ask(socket, "unsubscribe", **subscription)
    await run.write("run.waiting", status="REVIEW")
    await run.write("run.output", name="Output", value=7, node_run=1)
    for status, outputs in (("REVIEW", {}), ("COMPLETED", {"Output": [7]})):
        await ask(socket, "subscribe_graph_executions", **subscription, last_event_id=last)
        message = await socket.receive_json()
        assert (message["data"]["status"], message["data"]["outputs"]) == (status, outputs)
        last = message["event_id"]
        await ask(socket, "unsubscribe", **subscription)
        if status == "REVIEW":
            await run.complete()
    assert (await ask(socket, "subscribe_graph_executions", **subscription, last_event_id="1"))["method"] == "error"


async def test_a_message_that_would_be_too_long_comes_without_its_values(socket, start_run, monkeypatch):
    monkeypatch.setattr("backend.api.websocket_api.MAX_MESSAGE", 2000)
    run = await start_run()
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id))
    await socket.receive_json()
    await run.begin_node(1, a="x" * 3000)
    message = await socket.receive_json()
    assert (message["data"]["truncated"], message["data"]["input_data"]) == (True, {})
    assert message["event_id"] == run.number


async def test_a_run_that_waits_for_a_decision_is_told_as_in_review_and_so_is_its_node(socket, start_run):
    run = await start_run()
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id))
    await run.begin_node(1, data="draft")
    await run.write("node.waiting", node_run=1, node_id="node 1", review_id="r", **{"for": "review"})
    await run.write("run.waiting", "REVIEW", status="REVIEW")
    told = [(await socket.receive_json())["data"] for _ in range(4)]
    assert [(each["event_type"], each["status"]) for each in told] == [
        ("graph_execution_update", "RUNNING"),
        ("node_execution_update", "RUNNING"),
        ("node_execution_update", "REVIEW"),
        ("graph_execution_update", "REVIEW"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '"x"',
        "{}",
        '{"method": "nonsense"}',
        '{"method": "subscribe_graph_execution"}',
        '{"method": "subscribe_graph_execution", "data": {"graph_exec_id": "x"}}',
        '{"method": "subscribe_graph_execution", "data": {"graph_exec_id": "01890000-0000-7000-8000-000000000000"}}',
        '{"method": "subscribe_graph_executions", "data": {"graph_id": 1}}',
        '{"method": "unsubscribe", "data": []}',
        "\\ud800",
        "NaN",
    ],
)
async def test_a_message_that_makes_no_sense_is_answered_and_the_connection_lives(socket, text):
    await socket.send_str(text)
    answer = await socket.receive_json()
    assert (answer["method"], answer["success"]) == ("error", False)
    assert answer["error"]
    assert (await ask(socket, "heartbeat"))["data"] == "pong"


async def test_a_connection_that_is_cut_leaves_the_others_alone(websocket_address: str, socket, start_run):
    run = await start_run()
    async with aiohttp.ClientSession() as client:
        other = await client.ws_connect(f"ws://{websocket_address}/ws")
        await ask(other, "subscribe_graph_execution", graph_exec_id=str(run.id))
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id))
    assert (await socket.receive_json())["data"]["status"] == "RUNNING"
    await run.complete()
    assert (await socket.receive_json())["data"]["status"] == "COMPLETED"


async def test_a_client_that_does_not_read_misses_nothing_later(socket, start_run):
    run = await start_run()
    await ask(socket, "subscribe_graph_execution", graph_exec_id=str(run.id))
    await socket.receive_json()
    await run.begin_node(1)
    for number in range(300):
        await run.put_out(1, "result", number)
    await run.complete()
    seen: list[int] = []
    while not seen or seen[-1] < run.number:
        seen.append((await socket.receive_json())["event_id"])
    assert seen == list(range(3, run.number + 1))


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz"])
async def test_the_server_tells_its_health(websocket_address: str, path):
    async with aiohttp.ClientSession() as client, client.get(f"http://{websocket_address}{path}") as answer:
        assert answer.status == 200
