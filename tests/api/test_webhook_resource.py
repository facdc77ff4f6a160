"""Webhooks by way of the API: who is told what, with which secret, and what became of it."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from base64 import b64decode
from typing import Any
from uuid import UUID, uuid4

from backend.settings import Settings
from backend.store import deliveries, webhooks
from backend.store.sealing import sealer
from tests.test_docs import ROOT, fenced

HOOKS = "/api/v2/webhooks"
URL = "https://example.com/hooks"
GUIDE = (ROOT / "docs/webhooks.md").read_text(encoding="utf-8")


async def asked(api: Any, method: str, path: str, **body: Any) -> tuple[int, Any]:
    async with api.request(method, path, **({"json": body} if body else {})) as answer:
        return answer.status, await answer.json(content_type=None) if answer.status != 204 else None


async def created(api: Any, **body: Any) -> dict[str, Any]:
    status, made = await asked(api, "POST", HOOKS, **({"url": URL} | body))
    assert status == 201, made
    return made


async def test_a_webhook_is_created_listed_changed_and_deleted(api: Any):
    made = await created(api, description="the team")
    assert made["events"] == ["run.completed", "run.failed", "run.terminated"]
    shown = {name: value for name, value in made.items() if name != "secret"}
    path = f"{HOOKS}/{made['id']}"
    assert await asked(api, "GET", path) == (200, shown), "the secret is not shown again"
    _, page = await asked(api, "GET", HOOKS)
    assert (page["items"], page["next_cursor"], page["total_count"]) == ([shown], None, 1)
    changes = {"url": "http://example.org", "events": ["run.review"], "active": False}
    assert await asked(api, "PATCH", path, **changes) == (200, shown | changes)
    assert await asked(api, "PATCH", path, description=None) == (200, shown | changes)
    assert (await asked(api, "DELETE", path))[0] == 204
    for method in ("GET", "DELETE"):
        status, problem = await asked(api, method, path)
        assert (status, problem["code"]) == (404, "unknown_webhook")


async def test_the_secret_lies_sealed_in_the_database_and_another_takes_its_place_beside_it(
    api: Any, database: Any, settings: Settings
):
    made = await created(api)
    status, rotated = await asked(api, "POST", f"{HOOKS}/{made['id']}/rotate-secret")
    assert (status, rotated["id"]) == (200, made["id"])
    row = await database.fetchrow("SELECT secret, previous_secret, previous_until - now() AS left FROM webhooks")
    opened = [sealer(settings).open(row[name], webhooks.sealed_for(UUID(made["id"]))) for name in ("secret", 1)]
    assert opened == [b64decode(each["secret"].removeprefix("whsec_")) for each in (rotated, made)]
    assert 86_000 < row["left"].total_seconds() <= 86_400


REFUSED = {
    "ftp://example.com": "http:// or https://",
    "example.com": "http:// or https://",
    "https://": "http",
    "https://user:password@example.com": "no user name and no password",
    "https://example.com:99999/": "port",
    "https://example.com/a b": "characters",
    "https://example.com/" + "a" * 2000: "2000",
    "http://169.254.169.254/latest": "private address",
    "http://2130706433/": "private address",
    "http://[::ffff:10.0.0.1]/": "private address",
}


async def test_an_address_that_cannot_be_told_anything_is_refused(api: Any):
    made = await created(api)
    for url, reason in REFUSED.items():
        for method, path in (("POST", HOOKS), ("PATCH", f"{HOOKS}/{made['id']}")):
            status, problem = await asked(api, method, path, url=url)
            assert (status, problem["errors"][0]["pointer"]) == (422, "/url")
            assert reason in problem["detail"].lower(), url


async def test_what_is_wrong_with_a_webhook_is_told(api: Any):
    for wrong in ({"events": []}, {"events": ["node.started"]}, {"description": "a\0b"}, {"graph_id": "x"}):
        assert (await asked(api, "POST", HOOKS, url=URL, **wrong))[0] == 422
    assert (await asked(api, "POST", HOOKS, url=URL, graph_id=str(uuid4())))[1]["code"] == "unknown_graph"


async def test_deliveries_are_shown_and_made_again(api: Any, queue_run: Any, database: Any):
    made = await created(api)
    path = f"{HOOKS}/{made['id']}"
    run = await queue_run()
    await asked(api, "POST", f"/api/v2/runs/{run.id}/stop")
    status, tested = await asked(api, "POST", f"{path}/test")
    assert (status, tested["event_type"], tested["run_id"], tested["status"]) == (202, "webhook.test", None, "PENDING")
    _, page = await asked(api, "GET", f"{path}/deliveries?limit=1")
    assert (page["items"], page["total_count"]) == ([tested], 2)
    _, page = await asked(api, "GET", f"{path}/deliveries?cursor={page['next_cursor']}")
    [told] = page["items"]
    assert (told["event_type"], told["run_id"]) == ("run.terminated", str(run.id))

    claimed = await deliveries.claim(database, {}, in_lane=5, at_most=5)
    for due in claimed:
        await deliveries.record(database, due, deliveries.Result(False, 12, 500, "oh", "It answered 500."))
    _, page = await asked(api, "GET", f"{path}/deliveries?status=FAILED")
    assert page["total_count"] == 2
    _, failed = await asked(api, "GET", f"{path}/deliveries/{told['id']}")
    wanted = {"status": "FAILED", "attempts": 1, "duration_ms": 12, "response_status": 500, "response_excerpt": "oh"}
    assert failed.items() >= (wanted | {"error": "It answered 500.", "next_attempt_at": None}).items()
    status, again = await asked(api, "POST", f"{path}/deliveries/{told['id']}/redeliver")
    assert (status, again["status"], again["attempts"], again["id"]) == (202, "PENDING", 0, told["id"])
    status, problem = await asked(api, "GET", f"{path}/deliveries/{uuid4()}")
    assert (status, problem["code"]) == (404, "unknown_delivery")


async def test_a_webhook_that_is_switched_off_loses_what_waits_and_takes_nothing_more(api: Any):
    path = f"{HOOKS}/{(await created(api))['id']}"
    _, waiting = await asked(api, "POST", f"{path}/test")
    await asked(api, "PATCH", path, active=False)
    _, lost = await asked(api, "GET", f"{path}/deliveries/{waiting['id']}")
    assert (lost["status"], lost["error"]) == ("FAILED", "The webhook was switched off.")
    for more in ("test", f"deliveries/{waiting['id']}/redeliver"):
        status, problem = await asked(api, "POST", f"{path}/{more}")
        assert (status, problem["code"]) == (409, "webhook_inactive")


async def test_the_commands_of_the_guide_work(rest_address: str):
    commands = [line[2:] for block in fenced(GUIDE, "console") for line in block.splitlines()]
    script = "\n".join(commands).replace("127.0.0.1:8006", rest_address).replace("curl -s", "curl -sS --fail")
    shell = await asyncio.create_subprocess_exec("bash", "-euc", script, stdout=PIPE, stderr=PIPE)
    said, complaints = await shell.communicate()
    assert (shell.returncode, complaints) == (0, b"")
    for told in (b'"secret":"whsec_', b'"event_type":"webhook.test"', b'"events":["run.failed","run.review"]'):
        assert told in said


async def test_what_belongs_to_another_is_not_there(api: Any, database: Any):
    path = f"{HOOKS}/{(await created(api))['id']}"
    _, delivery = await asked(api, "POST", f"{path}/test")
    await database.execute("UPDATE webhooks SET user_id = $1", uuid4())
    assert (await asked(api, "GET", HOOKS))[1]["items"] == []
    this = f"{path}/deliveries/{delivery['id']}"
    requests = [("GET", path), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/rotate-secret")]
    requests += [("POST", f"{path}/test"), ("GET", f"{path}/deliveries"), ("GET", this), ("POST", f"{this}/redeliver")]
    for method, address in requests:
        status, problem = await asked(api, method, address, **({"active": False} if method == "PATCH" else {}))
        assert (status, problem["code"]) == (404, "unknown_webhook"), (method, address)
