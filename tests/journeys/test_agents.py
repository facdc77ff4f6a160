"""Agents that other people made, from file to result, on the whole environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import requests

from tests.journeys.environment import PATIENCE, ROOT, Environment, settings_for, started, until
from tests.journeys.stub import Stub, requests_one_by_one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Environment]:
    variables = settings_for(tmp_path_factory.mktemp("agents"), free_port, TRUSTED_HOSTS="127.0.0.1")
    with started(variables) as environment:
        yield environment


def test_the_calculator_agent_adds(server: Environment, shared_agents: Path):
    graph = server.post("/api/v2/graphs", (shared_agents / "calculator-agent.json").read_bytes())
    run = server.run(graph, Input=5)
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"Output": [39]})
    assert [node["status"] for node in run["node_executions"]] == ["COMPLETED"] * 3


def test_a_value_that_loses_something_on_its_way_is_a_warning(server: Environment, shared_agents: Path):
    graph = server.post("/api/v2/graphs", (shared_agents / "calculator-agent.json").read_bytes())
    run = server.run(graph, Input="many")
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"Output": [34]})
    [warning] = run["warnings"]
    assert (warning["node_run"], warning["message"]) == (2, "a: ‘many’ is not a number, 0 is taken")


def test_the_slack_agent_posts(server: Environment, shared_agents: Path, stub: Stub):
    graph = server.post("/api/v2/graphs", (shared_agents / "send-slack-message.json").read_bytes())
    run = server.run(
        graph,
        slack_api_endpoint_url=stub.address,
        slack_bot_token="xoxb-test",
        slack_channel_id="C1",
        slack_message_content="Hello",
    )
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"slack_api_response": [{"ok": True}]})
    [(headers, body)] = stub.received
    assert headers["Authorization"] == "Bearer xoxb-test"
    assert body == {"channel": "C1", "text": "Hello"}


def test_every_shared_agent_is_stored_and_its_export_imports_to_the_same_graph(server, shared_agents: Path):
    def shape(graph: dict) -> tuple:
        names = {node["id"]: number for number, node in enumerate(graph["nodes"])}
        return (
            graph["name"],
            [(node["block_id"], node["metadata"]) for node in graph["nodes"]],
            sorted((names[link["source_id"]], link["source_name"], names[link["sink_id"]], link["sink_name"])
                   for link in graph["links"]),
            [shape(sub_graph) for sub_graph in graph.get("sub_graphs") or ()],
        )  # fmt: skip

    files = sorted(shared_agents.glob("*.json"))
    assert len(files) == 11
    for file in files:
        stored = server.post("/api/v2/graphs", file.read_bytes())
        exported = server.get(f"/api/v2/graphs/{stored['id']}/export")
        again = server.post("/api/v2/graphs", exported)
        original = orjson.loads(file.read_bytes())
        assert shape(stored) == shape(again) == shape(original | {"sub_graphs": original.get("sub_graphs")}), file.name


def test_an_agent_that_cannot_run_is_stored_told_why_and_refused_with_the_same_list(server, shared_agents: Path):
    graph = server.post("/api/v2/graphs", (shared_agents / "testing-agent-invalid.json").read_bytes())
    assert [(problem["code"], problem["pin"]) for problem in graph["problems"]] == [
        ("missing_input", "operation"), ("missing_input", "a"), ("missing_input", "b"),
    ]  # fmt: skip
    refused = requests.post(f"{server.address}/api/v2/graphs/{graph['id']}/runs", json={"inputs": {}}, timeout=PATIENCE)
    assert (refused.status_code, refused.headers["Content-Type"]) == (422, "application/problem+json")
    assert refused.json()["problems"] == graph["problems"]


def test_a_stream_that_broke_off_goes_on_where_it_was(server: Environment, shared_agents: Path):
    graph = server.post("/api/v2/graphs", (shared_agents / "calculator-agent.json").read_bytes())
    run = server.run(graph, Input=1)
    whole = stream(server, run["id"])
    assert [number for number, _ in whole] == list(range(1, len(whole) + 1))
    assert whole[-1][1] == "run.completed"
    for seen in range(len(whole)):
        assert stream(server, run["id"], seen) == whole[seen:]


def stream(server: Environment, run_id: str, last: int | None = None) -> list[tuple[int, str]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    text = requests.get(f"{server.address}/api/v2/runs/{run_id}/events", headers=headers, timeout=PATIENCE).text
    blocks = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line) for block in text.split("\n\n")]
    return [(int(block["id"]), block["event"]) for block in blocks if "id" in block]


def test_a_run_is_stopped(server: Environment, stub: Stub):
    stub.gate.clear()
    graph = server.post("/api/v2/graphs", requests_one_by_one(stub))
    run = server.post(f"/api/v2/graphs/{graph['id']}/runs", {"inputs": {"items": [1, 2]}})
    until(lambda: len(stub.received) == 2)
    server.post(f"/api/v2/runs/{run['id']}/stop")
    ended = until(lambda: (found := server.get(f"/api/v2/runs/{run['id']}"))["ended_at"] and found)
    assert ended["status"] == "TERMINATED"


def test_a_killed_executor_loses_no_finished_node_and_its_run_goes_on(server: Environment, stub: Stub):
    graph = server.post("/api/v2/graphs", requests_one_by_one(stub))
    stub.gate.clear()
    run = server.post(f"/api/v2/graphs/{graph['id']}/runs", {"inputs": {"items": ["a", "b"]}})
    until(lambda: len(stub.received) == 2)
    os.kill(server.status()["executor"]["pid"], signal.SIGKILL)
    stub.gate.set()
    ended = until(lambda: (found := server.get(f"/api/v2/runs/{run['id']}"))["ended_at"] and found)
    assert (ended["status"], ended["attempt"]) == ("COMPLETED", 2)
    assert ended["outputs"] == {"answers": [{"ok": True}, {"ok": True}]}
    types = [type for _, type in stream(server, run["id"])]
    # The two requests that were cut off were made again, with the same key; the nodes before them were not.
    assert types.count("node.started") == 2 + 2 * 2 + 2
    keys = [headers["Idempotency-Key"] for headers, _ in stub.received]
    assert sorted(keys[:2]) == sorted(keys[2:])


def agent(server: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return server.python("-m", "backend.agent_cli", *arguments)


def test_an_agent_file_is_run_from_the_command_line(server: Environment):
    found = agent(server, "run", "examples/word-count.json", "--input", "Text=one two three")
    assert (found.returncode, found.stdout) == (0, "Answer: 3 words, 13 characters\n"), found.stderr
    assert "Count words" in found.stderr
    assert "COMPLETED" in found.stderr


def test_the_command_line_says_which_input_is_wrong(server: Environment):
    found = agent(server, "run", "examples/word-count.json", "--input", "Txt=one")
    assert found.returncode == 1
    assert "Txt" in found.stderr
    assert "Text" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_command_line_starts_a_server_where_none_runs_and_leaves_none(tmp_path: Path, free_port):
    variables = settings_for(tmp_path, free_port)
    command = [sys.executable, "-m", "backend.agent_cli", "run", "examples/word-count.json", "--input", "Text=hi"]
    found = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=PATIENCE)
    assert (found.returncode, found.stdout) == (0, "Answer: 1 word, 2 characters\n"), found.stderr
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{variables['AGENT_API_PORT']}/livez", timeout=PATIENCE)
