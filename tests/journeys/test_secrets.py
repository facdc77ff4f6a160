"""Secrets of every kind, planted in a whole environment that talks as much as it can, are nowhere to be found."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import requests

from tests.journeys.environment import PATIENCE, Environment, settings_for, started, until
from tests.journeys.stub import INPUT, OUTPUT, Stub, StubHandler

AUTHENTICATED = "fff86bcd-e001-4bad-a7f6-2eae4720c8dc"
HEADERS = {"X-Key": "planted-in-a-credential"}
TOKEN = "planted-in-a-trigger"
WRONG = "agpt_planted-and-wrong-" + "w" * 20
PASSWORD = "planted-in-the-address"


class Echo(StubHandler):
    """Gives back what it is sent, in its body, its headers and its error."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        sent = dict(self.headers)
        self.server.received.append((sent, json.loads(body or b"null")))
        answer = json.dumps({"sent": sent, "packed": base64.b64encode(str(sent).encode()).decode()}).encode()
        self.send_response(500 if self.path == "/fails" else 200, sent.get("X-Key"))
        self.send_header("X-Echo", str(sent))
        self.send_header("Content-Type", "application/json" if self.path != "/fails" else "text/" + sent["X-Key"])
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def asking(url: str) -> dict[str, Any]:
    """An agent that sends its input to both addresses, with a credential."""
    nodes = [
        {"id": "in", "block_id": INPUT, "input_default": {"name": "Input", "value": {}}},
        {"id": "out", "block_id": OUTPUT, "input_default": {"name": "Answer"}},
        *(
            {"id": path, "block_id": AUTHENTICATED, "input_default": {"url": url + path, "method": "POST"}}
            for path in ("", "fails")
        ),
    ]
    links = [
        *({"source_id": "in", "source_name": "result", "sink_id": path, "sink_name": "body"} for path in ("", "fails")),
        {"source_id": "", "source_name": "response", "sink_id": "out", "sink_name": "value"},
    ]
    for node in nodes:
        node["id"] = node["id"] or "works"
    for link in links:
        link |= {end: link[end] or "works" for end in ("source_id", "sink_id")}
    return {"name": "Asks", "nodes": nodes, "links": links}


def test_no_secret_is_in_a_log_a_table_a_file_or_an_answer(
    tmp_path: Path, free_port: Callable[[], int], database_url: str, stub: Stub
):
    stub.RequestHandlerClass = Echo
    more = {"TRUSTED_HOSTS": "127.0.0.1", "LOG_LEVEL": "debug", "LOG_DIR": str(tmp_path / "logs")}
    address = database_url.replace("postgres@", f"postgres:{PASSWORD}@")
    variables = settings_for(tmp_path, free_port, APP_ENV="production", DATABASE_URL=address, **more)
    del variables["AGENT_API_KEY"]
    shown_once = tmp_path / "output"
    with shown_once.open("wb") as output, started(variables, output=output) as environment:
        (key,) = re.findall(r"agpt_[\w-]+", shown_once.read_text())
        environment.variables["AGENT_API_KEY"] = key
        shown, said = used(environment, stub)
        said += [environment.control(*command).stdout for command in (("status", "--json"), ("logs",))]
    said.append(shown_once.read_text().replace(key, "", 1))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != shown_once]
    assert "rest.log" in {path.name for path in files}
    said += [path.read_text(errors="replace") for path in files]
    said += asyncio.run(rows(database_url))
    planted = [*HEADERS.values(), TOKEN, WRONG, PASSWORD, variables["AGENT_API_KEY"], variables["ENCRYPTION_KEY"]]
    everything = "\n".join(said)
    assert "‹redacted›" in everything
    for secret in [*planted, *shown]:
        for form in (secret, secret.encode().hex(), base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]):
            assert form not in everything


def used(environment: Environment, stub: Stub) -> tuple[list[str], list[str]]:
    """What is secret of what was made, and all that was said while it was used, well and badly."""
    get, post = environment.get, environment.post
    graph = post("/api/v2/graphs", asking(stub.address))
    secret = {"provider": "http", "type": "host_scoped", "host": stub.address.split("/")[2], "headers": HEADERS}
    credential = post("/api/v2/integrations/credentials", secret)
    webhook = post("/api/v2/webhooks", {"url": stub.address, "events": ["run.completed"]})
    echo = post("/api/v2/graphs", asking(stub.address) | {"nodes": asking("")["nodes"][:2], "links": []})
    by_token = {"kind": "token", "secret": TOKEN}
    trigger = {"name": "t", "graph_id": echo["id"], "payload_input": "Input", "verification": by_token}
    fed, open_ = (post("/api/v2/triggers", trigger | how) for how in ({}, {"verification": {"kind": "none"}}))
    key = post("/api/v2/api-keys", {"name": "k", "permissions": ["READ_RUN"]})
    chosen = {"http_host_scoped_credentials": {**credential, "api_key": HEADERS["X-Key"]}}
    run = post(f"/api/v2/graphs/{graph['id']}/runs?wait=30", {"credentials_inputs": chosen})
    assert "‹redacted›" in str(run["outputs"])
    for trigger_, how in ((fed, {"X-Trigger-Token": TOKEN}), (fed, {"Authorization": f"Bearer {WRONG}"}), (open_, {})):
        requests.post(trigger_["address"], json={}, headers=how, timeout=PATIENCE)
    until(lambda: get(f"/api/v2/webhooks/{webhook['id']}/deliveries?status=DELIVERED")["items"])
    said = [
        requests.request(method, environment.address + path, json=body, headers=headers, timeout=PATIENCE).text
        for method, path, body, headers in (
            ("GET", "/api/v2/me", None, {"X-API-Key": WRONG}),
            ("POST", "/api/v2/integrations/credentials", secret | {"host": [HEADERS]}, environment.headers),
            ("POST", "/api/v2/triggers", trigger | {"verification": by_token | {"kind": "none"}}, environment.headers),
            ("GET", "/api/v2/runs/%00", {"a": TOKEN}, environment.headers),
            *(("GET", f"/api/v2/{path}", None, environment.headers) for path in (
                f"runs/{run['id']}", f"runs/{run['id']}/events", f"graphs/{graph['id']}/export", "runs",
                f"webhooks/{webhook['id']}/deliveries", f"triggers/{fed['id']}/deliveries", "webhooks", "api-keys",
                "integrations/credentials")),
            ("GET", "/metrics", None, environment.headers),
            ("GET", "/openapi.json", None, {}),
        )
    ]  # fmt: skip
    said += asyncio.run(live(environment, run["id"]))
    tokens = [each["address"].rpartition("/")[2] for each in (fed, open_)]
    return [webhook["secret"], key["plain_text_key"], *tokens], said


async def live(environment: Environment, run_id: str) -> list[str]:
    """What the WebSocket tells of a run that has ended, and to whom has a wrong key."""
    address, said = f"ws://127.0.0.1:{environment.variables['WEBSOCKET_SERVER_PORT']}/ws?token=", list[str]()
    async with aiohttp.ClientSession() as client:
        async with client.ws_connect(address + environment.variables["AGENT_API_KEY"]) as socket:
            await socket.send_json({"method": "subscribe_graph_execution", "data": {"graph_exec_id": run_id}})
            while not any('"graph_execution_update"' in each and '"COMPLETED"' in each for each in said):
                said.append(await socket.receive_str(timeout=PATIENCE))
        async with client.ws_connect(address + WRONG) as socket:
            said.append(str(await socket.receive()))
    return said


async def rows(database_url: str) -> list[str]:
    connection = await asyncpg.connect(database_url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = [str(row[0]) for (table,) in tables for row in await connection.fetch(f"SELECT t::text FROM {table} t")]
    await connection.close()
    return found
