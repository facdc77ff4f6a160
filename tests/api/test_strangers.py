"""Whoever has a key of their own, and knows every id of somebody else's, finds nothing and changes nothing; and who may
only read changes nothing either."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from backend.api import websocket_api
from backend.api.access import Permission
from backend.api.streams import event_json
from backend.graphs.graph import AGENT_EXECUTOR
from backend.settings import Settings
from backend.store.connection import Pool
from tests.api.server import ECHO, INPUT_BLOCK, OUTPUT_BLOCK, executing, serving

API = "/api/v2"
REVIEW = "8b2a7b3c-6e9d-4a5f-8c1b-2e3f4a5b6c7d"
PERSIST = "1d055e55-a2b9-4547-8311-907d05b0304d"
RETRIEVE = "d8710fc9-6e29-481e-a7d5-165eb16f8471"
FILE_STORE = "cbb50872-625b-42f0-8203-a2ae78242d8a"
WEB = "fff86bcd-e001-4bad-a7f6-2eae4720c8dc"
# In whatever the owner has: in answers to others it is not to be seen.
MARK = "the owner's own"
SLOT = "http_host_scoped_credentials"

# What changes by itself.
LIVELY = {"rate_limits", "executors"}
# These say who asks, not what there is.
OF_ALL = {"list_blocks", "get_block", "execute_block", "get_me", "get_shared_run", "deliver_to_trigger"}
# These change nothing, or are public.
HARMLESS = {"validate_graph", "deliver_to_trigger"}

BODIES: dict[str, Any] = {
    "decide_reviews": lambda ids: {"reviews": [{"node_exec_id": ids["node_exec_id"], "approved": True}]},
    "set_active_graph_version": lambda _: {"active_graph_version": 1},
    "change_graph_settings": lambda _: {"max_concurrent_runs": 1},
    "change_library_agent": lambda _: {"name": "theirs"},
    "create_schedule": lambda ids: {"name": "theirs", "graph_id": ids["graph_id"], "cron": "0 0 1 1 *"},
    "change_schedule": lambda _: {"name": "theirs"},
    "create_trigger": lambda ids: {"name": "theirs", "graph_id": ids["graph_id"], "payload_input": "Input"},
    "change_trigger": lambda _: {"name": "theirs"},
    "create_webhook": lambda ids: {"url": "https://example.com", "events": ["run.failed"], "graph_id": ids["graph_id"]},
    "create_api_key": lambda _: {"name": "theirs", "permissions": ["READ_RUN"], "user": "owner"},
    "change_api_key": lambda _: {"name": "theirs"},
    "rename_credential": lambda _: {"title": "theirs"},
}


class Client:
    """Somebody with a key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, Any]:
        async with self.session.request(method, path, **how) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> Any:
        status, found = await self.ask("GET", API + path)
        assert status == 200, found
        return found

    async def post(self, path: str, json: Any = None, **how: Any) -> Any:
        status, made = await self.ask("POST", API + path, json=json, **how)
        assert status in (200, 201, 202), made
        return made

    async def upload(self) -> Any:
        form = aiohttp.FormData()
        form.add_field("file", MARK.encode(), filename=f"{MARK}.txt")
        return await self.post("/files/upload", data=form)


async def client_with(door: str, key: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(door, headers={"X-API-Key": key}) as session:
        yield Client(session)


@pytest.fixture
async def owner(door: str, make_key) -> AsyncIterator[Client]:
    async for client in client_with(door, await make_key(user="owner")):
        yield client


@pytest.fixture
async def stranger(door: str, make_key) -> AsyncIterator[Client]:
    key = await make_key(*(set(Permission) - {Permission.ADMIN}), user="stranger")
    async for client in client_with(door, key):
        yield client


def echoing(*nodes: Any, links: Any = (), **more: Any) -> dict[str, Any]:
    return ECHO | {"nodes": [*ECHO["nodes"], *nodes], "links": [*ECHO["links"], *links], **more}


def node(id: str, block_id: str, **pins: Any) -> dict[str, Any]:
    return {"id": id, "block_id": block_id, "input_default": pins}


def call_of(graph_id: str) -> dict[str, Any]:
    schemas = {"input_schema": {"type": "object"}, "output_schema": {"type": "object", "properties": {"Output": {}}}}
    return node("call", AGENT_EXECUTOR, graph_id=graph_id, graph_version=1, inputs={"Input": 1}, **schemas)


@pytest.fixture
async def ids(owner: Client, closed: Settings, database: Pool) -> dict[str, str]:
    """One of everything, of the owner: the ids by which it is asked for."""
    below = ECHO | {"id": "below", "name": f"{MARK} sub-agent"}
    keep = node("keep", PERSIST, key="k", value=MARK, scope="across_agents")
    graph = await owner.post("/graphs", echoing(call_of("below"), keep, sub_graphs=[below], name=MARK))
    assert graph["problems"] == []
    review = echoing(node("review", REVIEW, data=MARK, name=MARK), name=f"{MARK} reviewed")
    reviewed = await owner.post("/graphs", review)
    await owner.ask("PUT", f"{API}/graphs/{reviewed['id']}", json=review)
    runs = f"/graphs/{graph['id']}/runs"
    start = {"inputs": {"Input": MARK}, "labels": {"of": MARK}, "concurrency_key": MARK}
    async with executing(closed, database):
        ended = await owner.post(f"{runs}?wait=30", start, headers={"Idempotency-Key": "once"})
        assert ended["status"] == "COMPLETED"
        waiting, paused = [
            await owner.post(f"/graphs/{reviewed['id']}/runs", {"inputs": {"Input": MARK}}) for _ in range(2)
        ]
        for run in (waiting, paused):
            await until(owner, f"/runs/{run['id']}/events", b"event: run.waiting")
        await owner.post(f"/runs/{paused['id']}/pause")
    queued = await owner.post(runs, start)
    shared = await owner.post(f"/runs/{ended['id']}/share")
    timing = {"name": MARK, "graph_id": graph["id"], "cron": "0 0 1 1 *", "inputs": {"Input": MARK}}
    schedule = await owner.post("/schedules", timing)
    fed = {"name": MARK, "graph_id": graph["id"], "payload_input": "Input", "verification": {"kind": "none"}}
    trigger = await owner.post("/triggers", fed)
    delivery = await owner.post(trigger["address"].partition(API)[2], {"what": MARK})
    webhook = await owner.post(
        "/webhooks", {"url": "https://example.com", "events": ["run.failed"], "description": MARK}
    )
    told = await owner.post(f"/webhooks/{webhook['id']}/test")
    secret = {"provider": "http", "type": "host_scoped", "title": MARK, "host": "example.com", "headers": {"X": MARK}}
    credential = await owner.post("/integrations/credentials", secret)
    file = await owner.upload()
    key = await owner.post("/api-keys", {"name": MARK, "permissions": ["READ_RUN"]})
    (below_run,) = (await owner.get(f"/runs?parent_run_id={ended['id']}"))["items"]
    (asked,) = (await owner.get(f"/runs/reviews?run_id={waiting['id']}"))["items"]
    return {
        "graph_id": graph["id"],
        "reviewed": reviewed["id"],
        "below": below_run["graph_id"],
        "below_run": below_run["id"],
        "version": "1",
        "run_id": ended["id"],
        "waiting": waiting["id"],
        "paused": paused["id"],
        "queued": queued["id"],
        "node_exec_id": asked["node_exec_id"],
        "token": shared["share_token"],
        "schedule_id": schedule["id"],
        "trigger_id": trigger["id"],
        "began": delivery["run_id"],
        "delivery_id": delivery["delivery_id"],
        "webhook_id": webhook["id"],
        "told": told["id"],
        "credential_id": credential["id"],
        "file_id": file["id"],
        "key_id": key["api_key"]["id"],
        "user_id": (await owner.get("/me"))["id"],
        "block_id": PERSIST,
    }


async def until(client: Client, path: str, line: bytes) -> None:
    async with client.session.get(API + path) as stream:
        async for each in stream.content:
            if each.strip() == line:
                return
    raise AssertionError(f"{line!r} never came")


async def rows(database: Pool) -> dict[str, set[str]]:
    tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: {row[0] for row in await database.fetch(f"SELECT t::text FROM {name} t")}
        for (name,) in tables
        if name not in LIVELY
    }


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith(API)
    ]


def body_of(operation: Any, ids: dict[str, str], schemas: Any) -> dict[str, Any]:
    """The options of a request: what is asked for is well said, so that it is refused for whose it is."""
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        return {"data": {"file": "x"}}
    if operation["operationId"] in BODIES:
        return {"json": BODIES[operation["operationId"]](ids)}
    return {"json": _example(content["application/json"], schemas)} if content else {}


def _example(content: Any, schemas: Any) -> Any:
    schema = content.get("schema", {})
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    return content.get("example") or next(iter(schema.get("examples", [])), {})


async def test_a_stranger_finds_nothing_at_any_address_and_changes_nothing(
    owner: Client, stranger: Client, ids: dict[str, str], database: Pool
):
    await stranger.get("/me")  # which writes down when the key was used
    _, document = await owner.ask("GET", "/openapi.json")
    schemas, before = document["components"]["schemas"], await rows(database)
    others = {"run_id": ids["waiting"], "delivery_id": ids["told"]}, {"run_id": ids["paused"]}
    for method, path, operation in operations(document):
        for address in dict.fromkeys(path.format_map(ids | other) for other in ({}, *others)):
            how = body_of(operation, ids, schemas)
            name = operation["operationId"]
            if name in OF_ALL or (method == "GET" and address.endswith("/runs/events")):
                continue
            status, answer = await stranger.ask(method, address, **how)
            if address != path:
                assert (status, "items" in answer) == (404, False), (name, answer)
            assert MARK not in str(answer), name
    after = await rows(database)
    assert {name: gone for name, there in before.items() if (gone := there - after[name])} == {}


LISTS = ("runs", "runs/reviews", "graphs", "schedules", "triggers", "webhooks", "files", "library/agents",
    "integrations/credentials", "api-keys")  # fmt: skip


async def test_a_list_is_of_ones_own_whatever_it_is_asked_by(owner: Client, stranger: Client, ids: dict[str, str]):
    by = {"graph_id": "graph_id", "run_id": "waiting", "parent_run_id": "run_id", "schedule_id": "schedule_id"}
    for path in LISTS:
        theirs = await owner.get(f"/{path}?limit=1")
        assert theirs["total_count"]
        queries = ["", f"label=of:{MARK}", f"cursor={theirs['next_cursor'] or ''}".removesuffix("cursor=")]
        own = 1 if path == "api-keys" else 0
        for query in [*queries, *(f"{name}={ids[id]}" for name, id in by.items())]:
            found = await stranger.get(f"/{path}?{query}")
            assert len(found["items"]) <= found["total_count"] <= own, (path, query)
            assert MARK not in str(found)


async def test_what_is_anothers_cannot_be_named_in_a_body(
    stranger: Client, ids: dict[str, str], closed: Settings, database: Pool
):
    reference = {"id": ids["credential_id"], "provider": "http", "type": "host_scoped"}
    file = f"agpt-file://{ids['file_id']}"
    for block_id, pins in (
        (WEB, {"url": "http://example.com", "method": "GET", "credentials": reference}),
        (FILE_STORE, {"file_in": file, "base_64": True}),
    ):
        outputs = await stranger.post(f"/blocks/{block_id}/execute", pins)
        assert list(outputs) == ["error"]
        assert "not there" in outputs["error"][0] or "no file" in outputs["error"][0]
    for called in (ids["graph_id"], ids["below"]):
        above = await stranger.post("/graphs", echoing(call_of(called)))
        assert MARK not in str(above)
        status, refused = await stranger.ask("POST", f"{API}/graphs/{above['id']}/runs", json={"inputs": {"Input": 1}})
        assert (status, refused["code"]) == (422, "graph_not_runnable")
    taken = await stranger.post("/graphs", echoing(id=ids["graph_id"]))
    assert taken["id"] != ids["graph_id"]
    nodes = [
        node("keys", RETRIEVE, key="k", scope="across_agents", default_value="nothing"),
        node("file", FILE_STORE, file_in=file, base_64=True),
        *(node(f"{id} out", OUTPUT_BLOCK, name=id) for id in ("keys", "file")),
    ]
    links = [
        {"source_id": "keys", "sink_id": "keys out", "source_name": "value", "sink_name": "value"},
        {"source_id": "file", "sink_id": "file out", "source_name": "file_out", "sink_name": "value"},
    ]
    curious = await stranger.post("/graphs", echoing(*nodes, links=links))
    start = {"inputs": {"Input": file}, "concurrency_key": MARK}
    async with executing(closed, database):
        run = await stranger.post(f"/graphs/{curious['id']}/runs?wait=30", start, headers={"Idempotency-Key": "once"})
    assert (run["status"], run["outputs"]) == ("FAILED", {"Output": [file], "keys": ["nothing"]})
    assert run["failure"]["error"].startswith("There is no file")
    asks = await stranger.post("/graphs", echoing(node("web", WEB, url="http://example.com", method="GET")))
    body = {"inputs": {"Input": 1}, "credentials_inputs": {SLOT: reference}}
    status, refused = await stranger.ask("POST", f"{API}/graphs/{asks['id']}/runs", json=body)
    assert (status, refused["code"]) == (422, "invalid_inputs")
    assert MARK not in str(refused)
    _, found = await stranger.ask("GET", f"{API}/search", params={"query": MARK})
    assert MARK not in str(found)


async def test_streams_tell_only_of_ones_own_from_whatever_place(
    owner: Client, stranger: Client, ids: dict[str, str], closed: Settings, database: Pool
):
    async with owner.session.get(f"{API}/runs/events") as stream:
        place = (await stream.content.readline()).decode().removeprefix("id: ").strip()
    await owner.post(f"/runs/{ids['queued']}/stop")
    async with owner.session.get(f"{API}/runs/events", headers={"Last-Event-ID": place}) as stream:
        told = await stream.content.readuntil(b'"status":"TERMINATED"')
    places = {place, *re.findall(r"id: (\S+)", told.decode())}
    graph = await stranger.post("/graphs", ECHO)
    run = await stranger.post(f"/graphs/{graph['id']}/runs", {"inputs": {"Input": 1}})
    assert len(places) > 1
    for each in places:
        async with stranger.session.get(f"{API}/runs/events?after={each}") as stream:
            seen = await stream.content.readuntil(b'"type":"run.queued"')
            seen += await stream.content.readline()
        assert set(re.findall(rb'"run_id":"([^"]+)', seen)) == {run["id"].encode()}
    key = stranger.session.headers["X-API-Key"]
    async with (
        serving(closed, database, websocket_api.build_app, event_json) as live,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"ws://{live}/ws?token={key}") as socket,
    ):
        for id in ("run_id", "waiting", "paused"):
            await socket.send_json({"method": "subscribe_graph_execution", "data": {"graph_exec_id": ids[id]}})
            assert (await socket.receive_json())["success"] is False
        for graph_id in (ids["graph_id"], graph["id"]):
            data = {"graph_id": graph_id, "last_event_id": place}
            await socket.send_json({"method": "subscribe_graph_executions", "data": data})
        messages = [await socket.receive_json(timeout=10) for _ in range(3)]
        told = [each["data"] for each in messages if each["method"] == "graph_execution_event"]
        assert [each["id"] for each in told] == [run["id"]]


async def test_who_may_only_read_changes_nothing(owner: Client, door: str, ids: dict[str, str], make_key):
    _, document = await owner.ask("GET", "/openapi.json")
    may = [each for each in Permission if each.startswith("READ_") or each == "IDENTITY"]
    async for reader in client_with(door, await make_key(*may, user="owner")):
        for method, path, operation in operations(document):
            if method == "GET" or operation["operationId"] in HARMLESS:
                continue
            how = body_of(operation, ids, document["components"]["schemas"])
            status, problem = await reader.ask(method, path.format_map(ids), **how)
            assert (status, problem["code"]) == (403, "missing_permissions"), operation["operationId"]


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
async def test_a_cursor_made_up_of_a_time_that_does_not_exist_is_none_of_ours(owner: Client, time: str):
    cursor = base64.urlsafe_b64encode(f"{time}/{INPUT_BLOCK}".encode()).decode().rstrip("=")
    status, problem = await owner.ask("GET", f"{API}/runs?cursor={cursor}")
    assert (status, problem["code"]) == (400, "invalid_cursor")
