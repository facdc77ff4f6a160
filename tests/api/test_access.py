"""Who may come in: nobody without a key but on this machine in development, and only to what is theirs."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from backend.api import rest_api, websocket_api
from backend.api.access import Caller, Permission
from backend.api.authentication import PUBLIC, Keys, login_is_needed
from backend.api.streams import event_json, sse_chunk
from backend.settings import Settings
from backend.store import api_keys, rate_limits
from backend.store.connection import Pool
from tests.api.server import ECHO, serving


async def ask(door: str, path: str, key: str | None = None, method: str = "GET", **how: Any) -> tuple[int, Any, Any]:
    headers = {"X-API-Key": key} if key else {}
    async with aiohttp.ClientSession() as client, client.request(method, door + path, headers=headers, **how) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


@pytest.mark.parametrize(
    ("host", "env", "needed"),
    [
        ("127.0.0.1", "development", False),
        ("localhost", "development", False),
        ("0.0.0.0", "development", True),
        ("10.0.0.7", "development", True),
        ("127.0.0.1", "production", True),
    ],
)
def test_a_server_is_open_in_development_on_this_machine_and_nowhere_else(settings, host, env, needed):
    for name in ("agent_api_host", "websocket_server_host"):
        assert login_is_needed(settings.model_copy(update={"app_env": env, name: host})) is needed


async def test_without_a_key_nobody_gets_past_the_door(door, database: Pool):
    async with aiohttp.ClientSession() as client, client.get(f"{door}/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    for path, operations in paths.items():
        address = re.sub(r"{\w+}", str(uuid4()), path)
        for method in operations:
            status, problem, headers = await ask(door, address, method=method.upper())
            if not PUBLIC.fullmatch(address):
                assert (status, problem["code"]) == (401, "missing_api_key"), (method, path)
                assert headers["WWW-Authenticate"] == "Bearer"
    assert (await ask(door, "/api/v2/nowhere"))[0] == 401


@pytest.mark.parametrize("key", ["agpt_wrong", "nonsense", "agpt_" + "x" * 300, "ägpt"])
async def test_a_wrong_key_is_told_apart_from_none(door, key):
    assert (await ask(door, "/api/v2/me", key))[1]["code"] == "invalid_api_key"


async def test_an_address_that_tries_many_wrong_keys_has_to_wait(door, monkeypatch: pytest.MonkeyPatch, make_key):
    monkeypatch.setattr("backend.api.authentication.WRONG_KEYS", 3)
    found = [(await ask(door, "/api/v2/me", f"agpt_{number}"))[0] for number in range(4)]
    assert found == [401, 401, 401, 429]
    assert (await ask(door, "/api/v2/me", await make_key()))[0] == 200


async def test_a_key_opens_the_door_in_either_header(door, make_key):
    key = await make_key(user="alice")
    status, me, _ = await ask(door, "/api/v2/me", key)
    assert (status, me["name"], me["api_key"]["status"]) == (200, "alice", "ACTIVE")
    async with aiohttp.ClientSession() as client:
        answer = await client.get(f"{door}/api/v2/me", headers={"Authorization": f"Bearer {key}"})
        assert (await answer.json())["id"] == me["id"]


async def test_a_key_does_only_what_it_was_given(door, make_key):
    key = await make_key(Permission.READ_GRAPH)
    assert (await ask(door, "/api/v2/graphs", key))[0] == 200
    status, problem, _ = await ask(door, "/api/v2/graphs", key, "POST", json=ECHO)
    assert (status, problem["code"]) == (403, "missing_permissions")
    assert "WRITE_GRAPH" in problem["detail"]


async def test_no_key_begets_one_that_can_do_more_than_itself(door, make_key):
    key = await make_key(Permission.MANAGE_API_KEYS, Permission.READ_RUN)
    wanted = {"name": "more", "permissions": ["READ_RUN", "WRITE_RUN"]}
    for body in (wanted, {"name": "theirs", "permissions": ["READ_RUN"], "user": "bob"}):
        assert (await ask(door, "/api/v2/api-keys", key, "POST", json=body))[1]["code"] == "missing_permissions"
    mine = (await ask(door, "/api/v2/me", await make_key()))[1]["api_key"]["id"]
    assert (await ask(door, f"/api/v2/api-keys/{mine}/rotate", key, "POST"))[1]["code"] == "missing_permissions"


async def test_only_a_hash_of_a_key_is_stored_and_it_is_shown_once(door, make_key, database: Pool):
    admin = await make_key()
    body = {"name": "CI", "permissions": ["READ_RUN"], "user": "bob"}
    status, made, headers = await ask(door, "/api/v2/api-keys", admin, "POST", json=body)
    secret, api_key = made["plain_text_key"], made["api_key"]
    assert (status, api_key["user_name"], api_key["tail"]) == (201, "bob", secret[-8:])
    assert secret not in str((await ask(door, headers["Location"], admin))[1])
    assert secret not in str(await database.fetch("SELECT * FROM api_keys"))


async def test_a_key_expires_and_is_rotated(door, make_key):
    late = await make_key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert "expired" in (await ask(door, "/api/v2/me", late))[1]["detail"]
    old = await make_key()
    id = (await ask(door, "/api/v2/me", old))[1]["api_key"]["id"]
    rotate = f"/api/v2/api-keys/{id}/rotate"
    first = (await ask(door, rotate, old, "POST", json={"grace_seconds": 60}))[1]["plain_text_key"]
    assert (await ask(door, "/api/v2/me", old))[1]["api_key"]["expires_at"]
    second = (await ask(door, rotate, first, "POST"))[1]["plain_text_key"]
    assert (await ask(door, "/api/v2/me", second))[0] == 200


async def test_a_key_cannot_expire_when_there_is_no_time_for_it(door, make_key):
    key = await make_key()
    body = {"name": "CI", "permissions": ["READ_RUN"], "expires_at": "9999-12-31T23:59:59-23:59"}
    status, problem, _ = await ask(door, "/api/v2/api-keys", key, "POST", json=body)
    assert (status, problem["errors"][0]["pointer"]) == (422, "/expires_at")


async def status_becomes(door: str, key: str, wanted: int) -> None:
    async with asyncio.timeout(10):
        while (await ask(door, "/api/v2/me", key))[0] != wanted:  # noqa: ASYNC110 - the notification is on its way
            await asyncio.sleep(0.01)


async def test_a_revoked_key_is_refused_by_every_server_and_its_streams_end(
    door, closed: Settings, database: Pool, make_key, start_run
):
    admin, key = await make_key(), await make_key()
    id = (await ask(door, "/api/v2/me", key))[1]["api_key"]["id"]
    run = await start_run()
    async with (
        serving(closed, database, rest_api.build_app, sse_chunk) as other,
        serving(closed, database, websocket_api.build_app, event_json) as live,
        aiohttp.ClientSession(headers={"X-API-Key": key}) as client,
    ):
        assert (await ask(f"http://{other}", "/api/v2/me", key))[0] == 200
        stream = await client.get(f"{door}/api/v2/runs/{run.id}/events")
        await stream.content.readuntil(b"\n\n")
        socket = await client.ws_connect(f"ws://{live}/ws")
        await socket.send_json({"method": "heartbeat"})
        assert (await socket.receive_json())["data"] == "pong"
        assert (await ask(door, f"/api/v2/api-keys/{id}", admin, "DELETE"))[0] == 204
        await status_becomes(door, key, 401)
        await status_becomes(f"http://{other}", key, 401)
        assert b"run.started" in await stream.content.read()
        assert (await socket.receive()).data == 4003


async def test_a_stream_does_not_outlive_a_key_that_was_revoked_just_before_it_began(
    closed: Settings, database: Pool, make_key
):
    key = await api_keys.by_secret(database, await make_key())
    assert key
    await api_keys.revoke(database, key.id)
    caller = Caller(key.user_id, key.user_name, key.id, frozenset())
    async with asyncio.timeout(10), Keys(database, closed).open(caller):
        await asyncio.Event().wait()


async def test_a_key_that_is_revoked_while_its_request_waits_gets_no_answer(door, database: Pool, make_key):
    admin, key = await make_key(), await make_key()
    id = (await ask(door, "/api/v2/me", key))[1]["api_key"]["id"]
    echo = (await ask(door, "/api/v2/graphs", admin, "POST", json=ECHO))[2]["Location"]
    run = {"inputs": {"Input": 5}}
    waiting = asyncio.create_task(ask(door, f"{echo}/runs?wait=300", key, "POST", json=run))
    async with asyncio.timeout(10):
        while not (run_id := await database.fetchval("SELECT id FROM runs")):  # noqa: ASYNC110 - it is on its way
            await asyncio.sleep(0.01)
    assert (await ask(door, f"/api/v2/api-keys/{id}", admin, "DELETE"))[0] == 204
    assert (await ask(door, f"/api/v2/runs/{run_id}/stop", admin, "POST"))[0] == 202
    assert (await waiting)[1]["code"] == "invalid_api_key"


@pytest.mark.parametrize(("query", "code"), [("", 4001), ("?token=agpt_wrong", 4003)])
async def test_a_websocket_without_a_good_key_is_closed_with_the_codes_clients_know(
    closed: Settings, database: Pool, query, code
):
    async with (
        serving(closed, database, websocket_api.build_app, event_json) as live,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"ws://{live}/ws{query}") as socket,
    ):
        assert (await socket.receive()).data == code


async def test_a_websocket_takes_its_key_as_token_and_sees_only_what_is_its_users(
    closed: Settings, database: Pool, make_key, start_run
):
    run, key = await start_run(), await make_key(user="stranger")
    async with (
        serving(closed, database, websocket_api.build_app, event_json) as live,
        aiohttp.ClientSession() as client,
        client.ws_connect(f"ws://{live}/ws?token={key}") as socket,
    ):
        await socket.send_json({"method": "subscribe_graph_execution", "data": {"graph_exec_id": str(run.id)}})
        assert (await socket.receive_json())["error"] == f"There is no run {run.id}."


async def test_all_processes_count_the_requests_of_a_key_together(door, closed: Settings, database: Pool, make_key):
    key = await make_key(requests_per_minute=5)
    async with serving(closed, database, rest_api.build_app, sse_chunk) as other:
        doors = [door, f"http://{other}"] * 4
        found = [await ask(each, "/api/v2/me", key) for each in doors]
    assert [status for status, _, _ in found] == [200] * 5 + [429] * 3
    assert found[0][2]["RateLimit-Policy"] == '"default";q=5;w=60'
    assert re.fullmatch(r'"default";r=0;t=\d+', found[-1][2]["RateLimit"])
    assert 1 <= int(found[-1][2]["Retry-After"]) <= 60


async def test_however_many_ask_at_once_a_limit_is_not_passed(database: Pool):
    counts = [rate_limits.RateLimits(database) for _ in range(3)]
    taken = await asyncio.gather(*(each.take("key", 250) for each in counts * 200))
    assert sum(allowed for allowed, _ in taken) <= 250
    await database.execute("UPDATE rate_limits SET began_at = began_at - interval '1 minute'")
    assert (await rate_limits.RateLimits(database).take("key", 250))[0]


async def test_of_processes_that_start_together_one_makes_the_first_key(closed: Settings, database: Pool, capsys):
    await asyncio.gather(*(rest_api.show_first_key(closed, database) for _ in range(5)))
    [key] = re.findall("agpt_[^ \n]+", capsys.readouterr().out)
    stored = await api_keys.by_secret(database, key)
    assert stored
    assert "ADMIN" in stored.permissions
    await api_keys.revoke(database, stored.id)
    await rest_api.show_first_key(closed, database)
    assert key not in (shown := capsys.readouterr().out)
    assert "agpt_" in shown


async def test_an_open_server_makes_no_key(settings: Settings, database: Pool, capsys):
    await rest_api.show_first_key(settings, database)
    assert capsys.readouterr().out == ""
