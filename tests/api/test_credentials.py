"""Credentials: taken once, never told again, used by the runs that may, and redacted wherever they come back."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit
from uuid import UUID

import aiohttp
import pytest
from aiohttp import web

from backend.blocks import registry
from backend.blocks.block import (
    Accepted,
    Block,
    BlockError,
    BlockInput,
    BlockOutput,
    Category,
    Context,
    Pins,
    credentials_pin,
    pin,
)
from backend.execution.firing import fire_all_due
from backend.graphs.graph import AGENT_EXECUTOR
from backend.store.connection import Pool
from backend.store.identifiers import new_id
from tests.api.server import INPUT_BLOCK, OUTPUT_BLOCK, executing

CREDENTIALS = "/api/v2/integrations/credentials"
AUTHENTICATED = "fff86bcd-e001-4bad-a7f6-2eae4720c8dc"
SECRET = 's3cr3t/+ü"<planted>'
SLOT = "http_host_scoped_credentials"


@pytest.fixture
async def echo() -> AsyncIterator[str]:
    """The host and port of a server that tells what it was sent, in every form it can."""

    async def tell(request: web.Request) -> web.Response:
        sent = {name: value for name, value in request.headers.items() if name in ("X-Key", "Authorization")}
        if request.path == "/elsewhere":
            raise web.HTTPFound(f"http://localhost:{request.url.port}/")
        if request.path == "/text":
            return web.Response(text=f"what you sent is wrong: {sent}", status=400)
        forms = {
            header: [quote(value), base64.b64encode(b"x" + value.encode()).decode(), json.dumps({"k": value})]
            for header, value in sent.items()
        }
        return web.json_response({"sent": sent, "forms": forms, **{value: 1 for value in sent.values()}})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", tell)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def settings(settings, echo: str):
    trusted = (echo, echo.replace("127.0.0.1", "localhost"))
    return settings.model_copy(update={"trusted_hosts": trusted})


async def create(api: aiohttp.ClientSession, **body: Any) -> dict[str, Any]:
    async with api.post(CREDENTIALS, json={"provider": "http", **body}) as answer:
        assert answer.status == 201, await answer.text()
        return await answer.json()


def host_scoped(host: str, **more: Any) -> dict[str, Any]:
    return {"type": "host_scoped", "host": host, "headers": {"X-Key": SECRET}, **more}


async def agent(api: aiohttp.ClientSession, url: str, **values: Any) -> dict[str, Any]:
    """An agent that sends a request to `url` and puts out what comes back."""
    nodes = [
        {"id": "web", "block_id": AUTHENTICATED, "input_default": {"url": url, "method": "GET", **values}},
        {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "Answer"}},
    ]
    link = {"source_id": "web", "sink_id": "out", "source_name": "response", "sink_name": "value"}
    return await store(api, {"name": "Asks", "nodes": nodes, "links": [link]})


async def store(api: aiohttp.ClientSession, file: dict[str, Any]) -> dict[str, Any]:
    async with api.post("/api/v2/graphs", json=file) as answer:
        graph = await answer.json()
        assert (answer.status, graph["problems"]) == (201, [])
        return graph


async def start(api: aiohttp.ClientSession, graph: dict[str, Any], **body: Any) -> tuple[int, dict[str, Any]]:
    async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json=body, params={"wait": 20}) as answer:
        return answer.status, await answer.json()


def reference(credential: dict[str, Any]) -> dict[str, Any]:
    return {key: credential[key] for key in ("id", "provider", "type", "title")}


async def test_a_credential_is_told_without_its_secret_renamed_and_deleted(api):
    made = await create(api, **host_scoped("Api.Example.com", title="Weather"))
    assert (made["host"], made["title"], made["username"], made["last_used_at"]) == (
        "api.example.com",
        "Weather",
        None,
        None,
    )
    other = await create(
        api, provider="openai", type="api_key", api_key="sk-1234", expires_at="2999-01-01T00:00:00+01:00"
    )
    assert other["expires_at"] == "2998-12-31T23:00:00Z"
    await create(api, type="user_password", username="ada", password="1234")
    await create(api, provider="google", type="oauth2", access_token="abcd", scopes=["mail"])
    async with api.get(CREDENTIALS) as answer:
        listed = await answer.json()
        assert (listed["total_count"], [each["username"] for each in listed["items"]]) == (4, [None, "ada", None, None])
        assert {key for each in listed["items"] for key in each} == set(made)
    async with api.get(CREDENTIALS, params={"provider": "openai"}) as answer:
        assert (await answer.json())["items"] == [other]
    one = f"{CREDENTIALS}/{made['id']}"
    async with api.patch(one, json={"title": "Old"}) as answer:
        assert await answer.json() == made | {"title": "Old"}
    async with api.delete(one) as answer:
        assert answer.status == 204
    for request in (api.get(one), api.delete(one), api.patch(one, json={"title": "x"})):
        async with request as answer:
            assert (answer.status, (await answer.json())["code"]) == (404, "unknown_credential")


@pytest.mark.parametrize(
    "body",
    [
        {"type": "host_scoped", "host": "https://a/b", "headers": {"a": SECRET}},
        {"type": "host_scoped", "host": "a", "headers": {"a\n": SECRET}},
        {"type": "host_scoped", "host": "a", "headers": {"a": SECRET + "\r\n"}},
        {"type": "api_key", "api_key": SECRET, "expires_at": "2020-01-01T00:00:00Z"},
        {"type": "api_key", "api_key": SECRET, "expires_at": "9999-12-31T23:59:59-23:00"},
        {"type": "api_key", "api_key": SECRET, "title": "\0"},
        {"type": "api_key", "api_key": [SECRET]},
        {"type": "key", "api_key": SECRET},
    ],
)
async def test_what_is_wrong_with_a_credential_is_told_without_repeating_it(api, body: dict[str, Any]):
    async with api.post(CREDENTIALS, json={"provider": "http", **body}) as answer:
        told = await answer.text()
        assert answer.status == 422, told
        assert "s3cr3t" not in told


async def test_a_run_sends_the_headers_only_to_the_host_of_the_credential(api, executor, echo: str):
    credential = await create(api, **host_scoped(echo, title="Mine"))
    graph = await agent(api, f"http://{echo}/")
    assert graph["credentials_input_schema"]["required"] == [SLOT]
    async with api.get(f"/api/v2/graphs/{graph['id']}/credentials") as answer:
        (slot,) = (await answer.json())["slots"]
    assert (slot["slot"], slot["host"], [each["id"] for each in slot["credentials"]]) == (
        SLOT,
        echo,
        [credential["id"]],
    )
    async with api.get(f"/api/v2/library/agents/{graph['id']}/credentials") as answer:
        assert (await answer.json())["slots"] == [slot]
    status, run = await start(api, graph, credentials_inputs={SLOT: reference(credential) | {"api_key": SECRET}})
    assert (status, run["status"]) == (200, "COMPLETED")
    assert run["credentials_inputs"] == {SLOT: reference(credential)}
    (answered,) = run["outputs"]["Answer"]
    assert answered["sent"] == {"X-Key": "‹redacted›"}
    assert "s3cr3t" not in json.dumps(run)
    redirected = await agent(api, f"http://{echo}/elsewhere")
    _, run = await start(api, redirected, credentials_inputs={SLOT: reference(credential)})
    assert run["outputs"]["Answer"][0]["sent"] == {}
    async with api.get(f"{CREDENTIALS}/{credential['id']}") as answer:
        assert (await answer.json())["last_used_at"]


async def test_the_url_of_a_run_cannot_lead_a_credential_to_another_host(api, executor, echo: str):
    credential = await create(api, **host_scoped("api.example.com"))
    into = {"id": "in", "block_id": INPUT_BLOCK, "input_default": {"name": "url"}}
    asks = {
        "id": "web",
        "block_id": AUTHENTICATED,
        "input_default": {"method": "GET", "credentials": reference(credential)},
    }
    link = {"source_id": "in", "sink_id": "web", "source_name": "result", "sink_name": "url"}
    graph = await store(api, {"name": "x", "nodes": [into, asks], "links": [link]})
    _, run = await start(api, graph, inputs={"url": f"http://{echo}/"})
    assert run["failure"]["error"] == "The credential is for the host api.example.com, and is not sent to 127.0.0.1."


async def test_an_api_key_is_a_bearer_and_a_name_with_password_is_basic(api, executor, echo: str, monkeypatch):
    key = await create(api, type="api_key", api_key="key-12345")
    user = await create(api, type="user_password", username="ada", password="pass-12345")
    monkeypatch.setattr("backend.execution.redaction.Redaction.value", lambda self, value: value)
    graph = await agent(api, f"http://{echo}/")
    for credential, expected in (
        (key, "Bearer key-12345"),
        (user, f"Basic {base64.b64encode(b'ada:pass-12345').decode()}"),
    ):
        _, run = await start(api, graph, credentials_inputs={SLOT: reference(credential)})
        assert run["outputs"]["Answer"][0]["sent"] == {"Authorization": expected}


async def test_a_run_with_wrong_credentials_is_refused_before_it_is_queued(api, echo: str, database):
    graph = await agent(api, f"http://{echo}/")
    code, told = await start(api, graph)
    assert (code, told["code"], told["errors"][0]["pointer"]) == (422, "invalid_inputs", f"/credentials_inputs/{SLOT}")
    assert "create one first" in told["detail"]
    fits = await create(api, **host_scoped(echo, title="Mine"))
    other_host = await create(api, **host_scoped("api.example.com"))
    other = await create(api, provider="openai", type="api_key", api_key="1234")
    await database.execute(
        "UPDATE credentials SET user_id = $1 WHERE id = $2",
        new_id(),
        (foreign := await create(api, **host_scoped(echo)))["id"],
    )
    _, told = await start(api, graph)
    assert f"“Mine” ({fits['id']}) would fit" in told["detail"]
    for given, reason in (
        ({"id": str(new_id()), "provider": "http", "type": "host_scoped"}, "are not there"),
        (reference(foreign), "are not there"),
        (reference(other), "is for openai"),
        (reference(other_host), "is for the host api.example.com"),
        (reference(fits) | {"type": "api_key"}, "not as the reference says"),
    ):
        code, told = await start(api, graph, credentials_inputs={SLOT: given})
        assert (code, told["code"]) == (422, "invalid_inputs")
        assert reason in told["detail"]
    await database.execute("UPDATE credentials SET expires_at = now()")
    for given, code in (
        ({SLOT: reference(fits)}, "invalid_credentials"),
        ({"other": reference(fits)}, "unknown_credentials"),
    ):
        _, told = await start(api, graph, credentials_inputs=given)
        assert code in [problem["code"] for problem in told["problems"]]
    assert await database.fetchval("SELECT count(*) FROM runs") == 0


async def test_a_credential_deleted_since_the_start_fails_the_node(api, echo: str, settings, database):
    credential = await create(api, **host_scoped(echo, title="Mine"))
    graph = await agent(api, f"http://{echo}/", credentials=reference(credential) | {"api_key": SECRET})
    (given,) = [node["input_default"]["credentials"] for node in graph["nodes"] if node["block_id"] == AUTHENTICATED]
    assert given == reference(credential)
    async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json={}) as answer:
        run = f"/api/v2/runs/{(await answer.json())['id']}"
    async with api.delete(f"{CREDENTIALS}/{credential['id']}") as answer:
        assert answer.status == 204
    async with executing(settings, database), api.get(f"{run}/events") as answer:
        await answer.read()
    async with api.get(run) as answer:
        error = (await answer.json())["failure"]["error"]
    assert error == f"The credential {credential['id']} is not there any more: choose another."


async def test_schedules_and_triggers_run_with_the_credentials_that_they_name(api, echo: str, settings, database):
    credential = await create(api, **host_scoped(echo, title="Mine"))
    graph = await agent(api, f"http://{echo}/")
    given = {SLOT: reference(credential) | {"api_key": SECRET}}
    made: dict[str, Any] = {}
    for kind, more in (("schedules", {"cron": "0 0 1 1 *"}), ("triggers", {"verification": {"kind": "none"}})):
        body = {"name": "x", "graph_id": graph["id"], **more}
        for named in ("credentials", "credentials_inputs"):
            async with api.post(f"/api/v2/{kind}", json=body | {named: given}) as answer:
                made[kind] = await answer.json()
                assert (answer.status, made[kind]["credentials"]) == (201, {SLOT: reference(credential)})
        address, wrong = f"/api/v2/{kind}/{made[kind]['id']}", {SLOT: reference(credential) | {"id": str(new_id())}}
        refused = [api.post(f"/api/v2/{kind}", json=body), api.patch(address, json={"credentials": wrong})]
        for request, code in zip(refused, ("missing_credentials", "unknown_credentials"), strict=True):
            async with request as answer:
                (error,) = (await answer.json())["errors"]
                assert (answer.status, error["pointer"], error["code"]) == (422, f"/credentials/{SLOT}", code)
        async with api.patch(address, json={"credentials": given}) as answer:
            assert (await answer.json())["credentials"] == {SLOT: reference(credential)}
    schedule = f"/api/v2/schedules/{made['schedules']['id']}"
    ingress = urlsplit(made["triggers"]["address"]).path
    run_ids = [await fire(api, database, schedule)]
    for path, status, id in ((ingress, 202, "run_id"), (f"{schedule}/fire", 202, "id")):
        async with api.post(path, json={}) as answer:
            assert answer.status == status
            run_ids.append((await answer.json())[id])
    async with executing(settings, database):
        for run_id in run_ids:
            async with api.get(f"/api/v2/runs/{run_id}/events") as answer:
                await answer.read()
            async with api.get(f"/api/v2/runs/{run_id}/outputs") as answer:
                assert (await answer.json())["Answer"][0]["sent"] == {"X-Key": "‹redacted›"}
    async with api.delete(f"{CREDENTIALS}/{credential['id']}") as answer:
        assert answer.status == 204
    assert await fire(api, database, schedule) == run_ids[0]
    async with api.get(schedule) as answer:
        assert f"you have no credential {credential['id']}" in (await answer.json())["last_error"]
    async with api.post(ingress, json={"other": 1}) as answer:
        assert (answer.status, credential["id"] in await answer.text()) == (422, False)
    async with api.get(f"/api/v2/triggers/{made['triggers']['id']}/deliveries") as answer:
        last = (await answer.json())["items"][0]
        assert (last["outcome"], credential["id"] in last["error"]) == ("FAILED", True)


async def fire(api, database, schedule: str) -> str | None:
    """Have it be due. Returns the last run that it began."""
    await database.execute("UPDATE schedules SET next_run_at = now() WHERE id = $1", UUID(schedule.split("/")[-1]))
    await fire_all_due(database)
    async with api.get(schedule) as answer:
        return (await answer.json())["last_run_id"]


class LeakyBlock(Block):
    """Tells the secret it is given in every way there is."""

    id = "1eaf0000-0000-4000-8000-000000000001"
    categories = (Category.BASIC,)
    examples = ()

    class Input(BlockInput):
        how: str = pin("How")
        credentials: dict[str, Any] = credentials_pin("What to tell", Accepted(("http",), ("api_key",)))

    class Output(BlockOutput):
        response: Any = pin("The secret")

    async def run(self, input: Input, context: Context) -> Pins:
        secret = (await context.outside.credentials(input.credentials, Accepted(("http",), ("api_key",)))).secret[
            "api_key"
        ]
        yield "response", {secret: [secret, quote_plus(secret), json.dumps({"a": secret})], "b": quote(secret).lower()}
        yield (
            "response",
            [base64.b64encode(before + secret.encode() + b"after").decode() for before in (b"", b"1", b"12")],
        )
        await context.outside.keep("key", f"kept {secret}", across_agents=True)
        match input.how:
            case "raise":
                raise ValueError(f"refused: {secret}")
            case "fail":
                raise BlockError(f"refused: {secret}")
            case "error":
                yield "error", f"refused: {secret!r}"
            case _:
                await context.outside.review({"ask": secret}, f"Is {secret} right?", editable=True)


async def test_a_secret_is_nowhere_to_be_found(api, executor, echo, database, websocket_address, capfd, monkeypatch):
    blocks = {**registry.blocks(), LeakyBlock.id: LeakyBlock()}
    monkeypatch.setattr(registry, "blocks", lambda: blocks)
    key = await create(api, type="api_key", api_key=SECRET)
    header = await create(api, **host_scoped(echo))
    said: list[str] = []
    again = {"retry": {"times": 1, "delay_seconds": 0}}
    nodes = [
        {"id": how, "block_id": LeakyBlock.id, "input_default": {"how": how}, "settings": again}
        for how in ("raise", "fail", "error", "review")
    ]
    asks = {"id": "web", "block_id": AUTHENTICATED, "input_default": {"url": f"http://{echo}/text", "method": "GET"}}
    leaky = await store(api, {"name": "Leaks", "nodes": nodes, "links": []})
    web_ = await store(api, {"name": "Asks", "nodes": [asks], "links": []})
    for graph, credential, slot in ((leaky, key, "http_api_key_credentials"), (web_, header, SLOT)):
        given = reference(credential) | {"api_key": SECRET}
        masks = {graph["nodes"][0]["id"]: {"credentials": given}}
        body = {"credentials_inputs": {slot: given}, "nodes_input_masks": masks}
        async with api.post(f"/api/v2/graphs/{graph['id']}/runs", json=body) as answer:
            run = await answer.json()
        await until(api, run["id"], "run.waiting" if graph is leaky else "run.completed")
        if graph is leaky:
            async with api.post(f"/api/v2/runs/{run['id']}/stop") as answer:
                said.append(await answer.text())
        for path in (
            f"runs/{run['id']}",
            f"runs/{run['id']}/events",
            f"graphs/{graph['id']}",
            f"graphs/{graph['id']}/export",
            "runs/reviews",
        ):
            async with api.get(f"/api/v2/{path}") as answer:
                assert answer.status == 200
                said.append(await answer.text())
        said += await live_messages(websocket_address, run["id"])
    said += [
        str(row[0])
        for table in await tables(database)
        for row in await database.fetch(f"SELECT t::text FROM {table} t")
    ]
    said += capfd.readouterr()
    everything = "\n".join(said)
    assert "‹redacted›" in everything
    assert "refused: " in everything
    within = [base64.b64encode(before + SECRET.encode()).decode()[4:16] for before in (b"", b"1", b"12")]
    for form in (*within, quote(SECRET), quote_plus(SECRET), "s3cr3t", "planted"):
        assert form not in everything


async def test_a_block_executed_directly_is_given_a_credential_and_tells_nothing_of_it(api, echo, capfd, monkeypatch):
    blocks = {**registry.blocks(), LeakyBlock.id: LeakyBlock()}
    monkeypatch.setattr(registry, "blocks", lambda: blocks)
    credential, key = await create(api, **host_scoped(echo)), await create(api, type="api_key", api_key=SECRET)
    said: list[str] = []
    for block, given, pins in (
        (AUTHENTICATED, credential, {"url": f"http://{echo}/", "method": "GET"}),
        (LeakyBlock.id, key, {"how": "raise"}),
        (LeakyBlock.id, key, {"how": "fail"}),
    ):
        pins["credentials"] = reference(given)
        async with api.post(f"/api/v2/blocks/{block}/execute", json=pins) as answer:
            said.append(await answer.text())
            assert "‹redacted›" in said[-1]
    said += capfd.readouterr()
    assert "ValueError: refused: ‹redacted›" in said[1]
    assert "s3cr3t" not in "".join(said)


async def tables(database: Pool) -> list[str]:
    return [row[0] for row in await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


async def until(api: aiohttp.ClientSession, run_id: str, type: str) -> None:
    """Wait for an event of a run."""
    async with api.get(f"/api/v2/runs/{run_id}/events") as answer:
        while await answer.content.readline() != f"event: {type}\n".encode():
            assert not answer.content.at_eof()


async def live_messages(address: str, run_id: str) -> list[str]:
    """What the WebSocket tells of a run that has ended."""
    said: list[str] = []
    async with aiohttp.ClientSession() as client, client.ws_connect(f"ws://{address}/ws") as socket:
        await socket.send_json({"method": "subscribe_graph_execution", "data": {"graph_exec_id": run_id}})
        while not any(all(part in each for part in ("graph_execution_update", 'ended_at":"')) for each in said):
            said.append(await socket.receive_str(timeout=10))
    return said


async def test_credentials_reach_the_agents_below(api, executor, echo: str):
    credential = await create(api, **host_scoped(echo))
    below = {
        "id": "below",
        "name": "Asks",
        "nodes": [
            {"id": "web", "block_id": AUTHENTICATED, "input_default": {"url": f"http://{echo}/", "method": "GET"}},
            {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "Answer"}},
        ],
        "links": [{"source_id": "web", "sink_id": "out", "source_name": "response", "sink_name": "value"}],
    }
    schemas = {"input_schema": {"type": "object"}, "output_schema": {"type": "object", "properties": {"Answer": {}}}}
    call = {"graph_id": "below", "graph_version": 1, "inputs": {}, **schemas}
    nodes = [
        {"id": "call", "block_id": AGENT_EXECUTOR, "input_default": call},
        {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "Answer"}},
    ]
    link = {"source_id": "call", "sink_id": "out", "source_name": "Answer", "sink_name": "value"}
    graph = await store(api, {"name": "Above", "nodes": nodes, "links": [link], "sub_graphs": [below]})
    _, run = await start(api, graph, credentials_inputs={SLOT: reference(credential)})
    assert run["outputs"]["Answer"][0]["sent"] == {"X-Key": "‹redacted›"}
    async with api.post(f"/api/v2/runs/{run['id']}/rerun") as answer:
        again = await answer.json()
    assert again["credentials_inputs"] == {SLOT: reference(credential)}
