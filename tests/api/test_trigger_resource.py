"""Triggers: what is delivered to their addresses begins runs, once, if it is signed; and can be looked at."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from standardwebhooks.webhooks import Webhook

from backend.api.trigger_deliveries import KEPT, TAKEN
from backend.store import triggers
from tests.api.server import INPUT_BLOCK, OUTPUT_BLOCK

WEBHOOK = "8fa8c167-2002-47ce-aba8-97572fc5d387"
TRIGGERED: dict[str, Any] = {
    "name": "On delivery",
    "nodes": [
        {"id": "hook", "block_id": WEBHOOK, "input_default": {"constants": {"by": "hook"}}},
        {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "Output"}},
        {"id": "by", "block_id": OUTPUT_BLOCK, "input_default": {"name": "By"}},
    ],
    "links": [
        {"source_id": "hook", "sink_id": "out", "source_name": "payload", "sink_name": "value"},
        {"source_id": "hook", "sink_id": "by", "source_name": "constants_#_by", "sink_name": "value"},
    ],
}
PAYLOAD = {"action": "opened", "number": 5}


def inputs(*names: str) -> dict[str, Any]:
    """An agent with these inputs."""
    return {"nodes": [{"id": each, "block_id": INPUT_BLOCK, "input_default": {"name": each}} for each in names]}


@pytest.fixture
def asked(api: aiohttp.ClientSession):
    async def ask(method: str, path: str, status: int = 200, **body: Any) -> Any:
        given = {"json": body} if body else {}
        async with api.request(method, f"/api/v2{path}", **given) as answer:
            assert answer.status == status, await answer.text()
            return None if status == 204 else await answer.json(content_type=None)

    return ask


@pytest.fixture
def create(asked: Any):
    async def create(graph: dict[str, Any] = TRIGGERED, kind: str = "none", status: int = 201, **given: Any) -> Any:
        graph_id = (await asked("POST", "/graphs", 201, **graph))["id"]
        verification = {"kind": kind, **given.pop("verification", {})}
        body = {"name": "Hook", "graph_id": graph_id, "verification": verification, **given}
        return await asked("POST", "/triggers", status, **body)

    return create


@pytest.fixture
def deliver(api: aiohttp.ClientSession):
    """Deliver to a trigger, as it is said in `how`; gives status and answer."""

    async def deliver(trigger: Any, body: bytes = b'{"action": "opened", "number": 5}', **headers: str) -> Any:
        given = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        async with api.post(urlsplit(trigger["address"]).path, data=BytesIO(body), headers=given) as answer:
            return answer.status, await answer.json(content_type=None)

    return deliver


def standard(secret: str, body: bytes, id: str = "msg_1", age: timedelta = timedelta()) -> dict[str, str]:
    when = datetime.now(UTC) - age
    signature = Webhook(secret).sign(id, when, body.decode())
    return {"webhook_id": id, "webhook_timestamp": str(int(when.timestamp())), "webhook_signature": signature}


def github(secret: str, body: bytes, id: str = "1", event: str = "push") -> dict[str, str]:
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X_Hub_Signature_256": signature, "X_GitHub_Delivery": id, "X_GitHub_Event": event}


@pytest.mark.usefixtures("executor")
async def test_a_webhook_node_begins_with_what_is_delivered(create: Any, deliver: Any, asked: Any, api: Any):
    trigger = await create()
    graph = await asked("GET", f"/graphs/{trigger['graph_id']}")
    assert (graph["problems"], graph["has_external_trigger"]) == ([], True)
    assert [*graph["trigger_setup_info"]["config_schema"]["properties"]] == ["constants"]
    status, delivered = await deliver(trigger)
    assert status == 202
    async with api.get(f"/api/v2/runs/{delivered['run_id']}/events") as stream:
        await stream.read()
    run = await asked("GET", f"/runs/{delivered['run_id']}")
    assert (run["status"], run["outputs"]) == ("COMPLETED", {"Output": [PAYLOAD], "By": ["hook"]})


async def test_without_a_payload_such_an_agent_does_not_begin(create: Any, asked: Any):
    trigger = await create()
    refused = await asked("POST", f"/graphs/{trigger['graph_id']}/runs", 422)
    assert [(each["code"], each["pin"]) for each in refused["problems"]] == [("missing_payload", "payload")]
    masks = {refused["problems"][0]["node_id"]: {"payload": {}}}
    await asked("POST", f"/graphs/{trigger['graph_id']}/runs", 202, nodes_input_masks=masks)


async def test_without_such_a_node_the_payload_goes_to_inputs(create: Any, deliver: Any, asked: Any):
    for graph, given, expected in (
        (inputs("The only one"), {}, {"The only one": PAYLOAD}),
        (inputs("a", "only one left"), {"inputs": {"a": 1}}, {"a": 1, "only one left": PAYLOAD}),
        (inputs("a", "named", "b"), {"inputs": {"a": 1, "b": 2}, "payload_input": "named"}, {"named": PAYLOAD}),
        (inputs("action", "number"), {}, PAYLOAD),
    ):
        _, delivered = await deliver(await create(graph, **given))
        found = (await asked("GET", f"/runs/{delivered['run_id']}"))["inputs"]
        assert found == given.get("inputs", {}) | expected


async def test_what_could_never_begin_is_refused_when_the_trigger_is_made(create: Any, asked: Any):
    assert "no input `c`" in (await create(inputs("a"), status=422, payload_input="c"))["detail"]
    assert (await create(inputs("a"), status=422, inputs={"c": 1}))["code"] == "invalid_inputs"
    assert (await create({"nodes": [{"id": "x", "block_id": "gone"}]}, status=422))["code"] == "graph_not_runnable"
    assert (await asked("POST", "/triggers", 404, name="t", graph_id=str(uuid4())))["code"] == "unknown_graph"
    for verification in ({"kind": "none", "secret": "12345678"}, {"kind": "standard_webhooks", "secret": "no Base64!"}):
        refused = await create(status=422, verification=verification)
        assert refused["errors"][0]["pointer"] == "/verification/secret"


async def test_a_signature_is_asked_for(create: Any, deliver: Any, asked: Any):
    trigger = await create(kind="standard_webhooks")
    body, good = b'{"a": 1}', trigger["secret"]
    assert good.startswith("whsec_")
    other = "whsec_" + base64.b64encode(b"0" * 24).decode()
    wrong = [
        {},
        standard(other, body),
        standard(good, b'{"a": 2}'),
        standard(good, body, age=timedelta(minutes=6)),
        standard(good, body, age=-timedelta(minutes=6)),
        standard(good, body) | {"webhook_signature": "v1"},
        standard(good, body) | {"webhook_signature": "v1,ä"},
        standard(good, body) | {"webhook_timestamp": "nan"},
    ]
    for headers in wrong:
        status, refused = await deliver(trigger, body, **headers)
        assert (status, refused["code"]) == (401, "invalid_signature"), headers
    assert (await deliver(trigger, body, **standard(good, body)))[0] == 202
    outcomes = [each["outcome"] for each in (await asked("GET", f"/triggers/{trigger['id']}/deliveries"))["items"]]
    assert outcomes == ["STARTED", *["REFUSED"] * len(wrong)]


async def test_github_signs_in_its_own_way_and_pings(create: Any, deliver: Any):
    trigger = await create(kind="github")
    body = b'{"zen": "x"}'
    signed = github(trigger["secret"], body, event="ping")
    assert (await deliver(trigger, body, **signed))[1]["run_id"] is None
    assert (await deliver(trigger, body, **signed | {"X_Hub_Signature_256": "sha256=0"}))[0] == 401
    form = b"payload=%7B%22a%22%3A1%7D"
    signed = github(trigger["secret"], form) | {"Content_Type": "application/x-www-form-urlencoded"}
    assert (await deliver(trigger, form, **signed))[0] == 202


async def test_a_token_comes_in_either_header(create: Any, deliver: Any):
    trigger = await create(kind="token", verification={"secret": "a token of ours"})
    assert trigger["secret"] == "a token of ours"
    assert (await deliver(trigger, X_Trigger_Token="a token of ours"))[0] == 202
    assert (await deliver(trigger, Authorization="Bearer a token of ours"))[0] == 200, "the same body"
    for wrong in ({"X_Trigger_Token": "another"}, {"Authorization": "Bearer"}, {}):
        assert (await deliver(trigger, **wrong))[0] == 401


async def test_what_comes_again_is_answered_with_the_run_of_the_first_time(create: Any, deliver: Any, database: Any):
    body = b'{"a": 1}'
    ways = {"standard_webhooks": standard, "github": github, "none": lambda _secret, _body, id: {"Idempotency_Key": id}}
    for kind, signed in ways.items():
        trigger = await create(kind=kind)
        first, second = (signed(trigger["secret"], body, id) for id in ("one", "two"))
        found = await asyncio.gather(*(deliver(trigger, body, **first) for _ in range(3)))
        assert sorted(status for status, _ in found) == [200, 200, 202]
        assert len({str(delivered) for _, delivered in found}) == 1
        assert (await deliver(trigger, body, **second))[0] == 202
    assert await database.fetchval("SELECT count(*) FROM runs") == 2 * len(ways)


async def test_a_body_without_an_id_is_the_same_for_minutes(create: Any, deliver: Any, database: Any):
    trigger = await create()
    assert [(await deliver(trigger))[0] for _ in range(2)] == [202, 200]
    await database.execute("UPDATE trigger_deliveries SET created_at = created_at - interval '6 minutes'")
    assert (await deliver(trigger))[0] == 202


async def test_an_address_that_is_not_whole_is_none(create: Any, api: Any):
    trigger = await create()
    path = urlsplit(trigger["address"]).path
    for wrong in (path[:-1], path.replace(trigger["id"], str(uuid4())), path + "ä"):
        async with api.post(wrong, json={}) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_trigger")
    async with api.post(path.rpartition("/")[0], json={}) as answer:
        assert answer.status == 404


async def test_bodies_that_are_no_payload_are_refused_in_words(create: Any, deliver: Any):
    trigger = await create()
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    wrong = [
        (413, b"x" * (TAKEN + 1), {}),
        (415, b"text", {"Content_Type": "text/plain"}),
        (415, b"", {"Content_Type": "multipart/form-data; boundary=x"}),
        (400, b"{", {}),
        (400, b"", {}),
        (422, b'{"a": "\\u0000"}', {}),
        (422, b'{"\\u0000": "a"}', {}),
        (422, b"a=%00", form),
        (422, b"\xff", form),
        (422, b"[" * 900 + b"]" * 900, {}),
    ]
    for status, body, headers in wrong:
        assert (await deliver(trigger, body, **headers))[0] == status, body[:20]
    assert (await deliver(trigger, b"a=1&b=2&b=3", **form))[0] == 202


async def test_deliveries_are_shown_without_secrets(create: Any, deliver: Any, asked: Any):
    trigger = await create(kind="token")
    secret = trigger["secret"]
    _, delivered = await deliver(trigger, X_Trigger_Token=secret, Cookie="session=1", X_Event="opened")
    listed = await asked("GET", f"/triggers/{trigger['id']}/deliveries")
    [delivery] = listed["items"]
    assert (delivery["id"], delivery["run_id"]) == (delivered["delivery_id"], delivered["run_id"])
    headers = delivery["headers"]
    assert (headers["x-trigger-token"], headers["cookie"], headers["x-event"]) == ("…", "…", "opened")
    assert delivery["body"] == '{"action": "opened", "number": 5}'
    assert secret not in str(listed)


async def test_what_could_not_begin_is_told_and_may_come_again(create: Any, deliver: Any, asked: Any):
    trigger = await create(inputs("action", "number"))
    path = f"/triggers/{trigger['id']}/deliveries"
    assert (await deliver(trigger, b'{"action": "opened"}'))[1]["code"] == "invalid_inputs"
    [failed] = (await asked("GET", path))["items"]
    assert (failed["outcome"], failed["run_id"]) == ("FAILED", None)
    assert "`number` is required" in failed["error"]
    await asked("PATCH", f"/triggers/{trigger['id']}", inputs={"number": 7})
    again = await asked("POST", f"{path}/{failed['id']}/replay", 202)
    newest, _ = (await asked("GET", path))["items"]
    assert (newest["replay_of"], newest["run_id"]) == (failed["id"], again["run_id"])
    assert (await asked("GET", f"/runs/{again['run_id']}"))["inputs"] == {"number": 7, "action": {"action": "opened"}}


async def test_only_what_was_good_and_is_whole_can_be_replayed(create: Any, deliver: Any, asked: Any):
    trigger = await create(kind="token")
    path = f"/triggers/{trigger['id']}/deliveries"
    await deliver(trigger)
    [refused] = (await asked("GET", path))["items"]
    assert "REFUSED" in (await asked("POST", f"{path}/{refused['id']}/replay", 409))["detail"]
    large = b'"' + b"x" * KEPT + b'"'
    _, delivered = await deliver(trigger, large, X_Trigger_Token=trigger["secret"])
    assert (await asked("POST", f"{path}/{delivered['delivery_id']}/replay", 409))["code"] == "not_replayable"
    await asked("POST", f"{path}/{uuid4()}/replay", 404)


async def test_only_the_last_deliveries_are_kept_but_older_ones_are_still_known(
    create: Any, deliver: Any, asked: Any, database: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(triggers, "SHOWN", 2)
    trigger = await create()
    for number in range(4):
        await deliver(trigger, b"{}", Idempotency_Key=str(number))
    listed = await asked("GET", f"/triggers/{trigger['id']}/deliveries")
    assert (listed["total_count"], len(listed["items"])) == (2, 2)
    assert (await deliver(trigger, b"{}", Idempotency_Key="0"))[0] == 200
    assert await database.fetchval("SELECT count(*) FROM trigger_deliveries WHERE body <> ''") == 2
    await database.execute("UPDATE trigger_deliveries SET created_at = created_at - interval '4 days' WHERE NOT shown")
    await deliver(trigger, b"{}", Idempotency_Key="5")
    assert await database.fetchval("SELECT count(*) FROM trigger_deliveries") == 3


async def test_a_trigger_is_listed_changed_and_deleted(create: Any, deliver: Any, asked: Any, database: Any):
    trigger = await create(kind="token")
    shown = {name: value for name, value in trigger.items() if name != "secret"}
    path = f"/triggers/{trigger['id']}"
    assert await asked("GET", path) == shown
    assert (await asked("GET", f"/triggers?graph_id={trigger['graph_id']}"))["items"] == [shown]
    assert await asked("PATCH", path, name="Other") == shown | {"name": "Other"}
    stored = await database.fetchval("SELECT sealed FROM triggers")
    assert trigger["secret"].encode() not in stored
    rotated = await asked("POST", f"{path}/rotate-secret")
    assert (rotated["address"], rotated["secret"] != trigger["secret"]) == (trigger["address"], True)
    assert (await deliver(trigger, X_Trigger_Token=trigger["secret"]))[0] == 401
    assert (await deliver(trigger, X_Trigger_Token=rotated["secret"]))[0] == 202
    await asked("DELETE", path, 204)
    assert (await deliver(trigger, X_Trigger_Token=rotated["secret"]))[0] == 404
    for method, rest in [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/rotate-secret"),
        ("GET", "/deliveries"),
    ]:
        body = {"name": "x"} if method == "PATCH" else {}
        assert (await asked(method, path + rest, 404, **body))["code"] == "unknown_trigger"


async def test_the_address_is_the_secret_of_a_trigger_without_one(create: Any, deliver: Any, asked: Any):
    trigger = await create(kind="none")
    assert trigger["secret"] is None
    rotated = await asked("POST", f"/triggers/{trigger['id']}/rotate-secret")
    assert (await deliver(trigger))[0] == 404
    assert (await deliver(rotated))[0] == 202


async def test_what_is_anothers_is_not_there(create: Any, deliver: Any, asked: Any, database: Any):
    trigger = await create()
    await database.execute("UPDATE triggers SET user_id = gen_random_uuid()")
    assert (await asked("GET", "/triggers"))["total_count"] == 0
    path = f"/triggers/{trigger['id']}"
    for method, rest in [("GET", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("GET", "/deliveries")]:
        assert (await asked(method, path + rest, 404))["code"] == "unknown_trigger"
    assert (await deliver(trigger))[1]["code"] == "unknown_graph", "and runs no graph but its owner's"
