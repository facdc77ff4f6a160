"""Webhooks are told what happens to runs: at least once, signed, and by way of nobody's private network."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from backend.execution import notifier, webhook_sender
from backend.execution.notifier import Courier
from backend.execution.webhook_sender import Sender
from backend.store import control, deliveries, events, runs, webhooks
from backend.store.deliveries import Due, Result
from backend.store.events import Entry, Event
from backend.store.identifiers import new_id
from backend.store.retention import delete_run
from backend.store.sealing import Sealer
from backend.store.users import DEFAULT_USER
from tests.execution.agents import IN, OUT, REVIEW, call, node
from tests.execution.engine import Engine
from tests.sites import ChangingResolver, Site, plain, redirect, sites
from tests.test_docs import ROOT, fenced

__all__ = ["sites"]

SEALER = Sealer(b"k" * 32)
SECRET = b"s" * 32
ENDS = ("run.completed", "run.failed", "run.terminated")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt waits for the one before, and without a notification nobody looks."""
    monkeypatch.setattr(webhook_sender, "DELAYS", (0, 0, 0))
    monkeypatch.setattr(notifier, "LOOK_EVERY", 3600)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[tuple[Due, Result]]:
    """Every attempt whose result is written down."""
    queue: asyncio.Queue[tuple[Due, Result]] = asyncio.Queue()
    record = deliveries.record

    async def told(pool: Any, due: Due, result: Result) -> str | None:
        reason = await record(pool, due, result)
        queue.put_nowait((due, result))
        return reason

    monkeypatch.setattr(deliveries, "record", told)
    return queue


Notifying = Callable[..., Any]


@pytest.fixture
def notifying(engine: Engine) -> Notifying:
    """`async with notifying(trusted_hosts):` a notifier at work."""

    @asynccontextmanager
    async def work(trusted: tuple[str, ...] = ("127.0.0.1",), **more: Any) -> AsyncIterator[None]:
        sender, stopping = Sender(trusted, SEALER, **more), asyncio.Event()
        working = asyncio.create_task(Courier(engine.pool, sender).work(engine.settings.database_url, stopping))
        try:
            yield
        finally:
            stopping.set()
            await working
            await sender.close()

    return work


@pytest.fixture
async def site(sites: Callable[[], Awaitable[Site]]) -> Site:
    site = await sites()
    site.answer = plain()
    return site


async def add(engine: Engine, url: str, *events: str, **more: Any) -> UUID:
    id = new_id()
    sealed = SEALER.seal(SECRET, webhooks.sealed_for(id))
    await webhooks.insert(engine.pool, id, DEFAULT_USER, url, events or ENDS, sealed, **more)
    return id


async def ping(engine: Engine, *webhook_ids: UUID) -> None:
    """Queues a delivery to each, of nothing."""
    for id in webhook_ids:
        await deliveries.insert_test(engine.pool, new_id(), DEFAULT_USER, id)


async def of(engine: Engine, webhook_id: UUID) -> list[deliveries.StoredDelivery]:
    return await deliveries.page(engine.pool, webhook_id, limit=100)


def verified(site: Site, number: int = 0, secret: bytes = SECRET) -> dict[str, Any]:
    return Webhook(secret).verify(site.bodies[number], dict(site.asked[number].headers))


async def stopped(engine: Engine) -> UUID:
    """The id of a run that has ended."""
    run_id = await engine.queue(await engine.add(x="in"))
    await control.request_stop(engine.pool, run_id)
    return run_id


async def within(waiting: Awaitable[Any]) -> Any:
    async with asyncio.timeout(20):
        return await waiting


# ---- What is told


async def test_the_end_of_a_run_is_told_with_what_it_put_out_and_a_signature(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    webhook_id = await add(engine, f"{site.url}/hook")
    graph_id = await engine.add("x.result -> y.value", x="in", y="out")
    async with notifying(), engine.worker():
        run, _ = await engine.run(graph_id, x="a\0b")
        await within(recorded.get())
    [delivery] = await of(engine, webhook_id)
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("DELIVERED", 1, 200)
    assert site.asked[0].headers["webhook-id"] == str(delivery.id)
    message = verified(site)
    assert message["type"] == "run.completed"
    told = message["data"]
    assert (told["run_id"], told["graph_id"]) == (str(run.id), str(graph_id))
    assert (told["status"], told["outputs"], told["outputs_complete"]) == ("COMPLETED", {"y": ["a\0b"]}, True)
    assert len(site.asked) == 1, "it has not asked to be told of the start"
    with pytest.raises(WebhookVerificationError):
        verified(site, secret=b"another")
    [code] = fenced((ROOT / "docs/webhooks.md").read_text(encoding="utf-8"), "python")
    exec(code, guide := dict[str, Any]())
    secret = f"whsec_{b64encode(SECRET).decode()}"
    headers = dict(site.asked[0].headers)
    assert guide["received"](site.bodies[0], headers, secret) == message
    assert guide["received"](site.bodies[0] + b" ", headers, secret) is None


async def test_a_failure_is_told_without_secrets_and_large_outputs_are_left_out(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    await add(engine, site.url)
    secret = {"block_id": "in", "input_default": {"name": "key", "secret": True}}
    graph_id = await engine.add(
        "key.result -> v.value", "x.result -> y.value", "z.result -> many.a", "many.out -> each.value",
        key=secret, v="vault", x="in", y="out", z="in", many="each", each="out",
    )  # fmt: skip
    async with notifying(), engine.worker():
        await engine.run(graph_id, key="s3cret", x="large" * 10_000, z=["small", *(["k" * 15_000] * 6)])
        await within(recorded.get())
    told = verified(site)["data"]
    assert (told["status"], told["failure"]["node_id"]) == ("FAILED", "v")
    assert told["outputs"].keys() == {"each"}
    assert told["outputs"]["each"][0] == "small"
    assert not told["outputs_complete"]
    assert len(site.bodies[0]) < 70_000
    assert b"s3cret" not in site.bodies[0]


async def test_a_run_of_another_agent_or_user_and_one_below_another_are_not_told(engine: Engine):
    graph_id = await engine.add("x.result -> y.value", x=IN, y=OUT)
    parent = await engine.add("x.result -> c.x", x=IN, c=call(graph_id))
    all_of_them, of_another = await add(engine, "http://a"), await add(engine, "http://a", graph_id=graph_id)
    strangers = new_id()
    await webhooks.insert(engine.pool, strangers, uuid4(), "http://a", ENDS, b"")
    async with engine.worker():
        run, _ = await engine.run(parent, x=1)
    assert [delivery.run_id for delivery in await of(engine, all_of_them)] == [run.id]
    assert (await of(engine, of_another), await of(engine, strangers)) == ([], [])


async def test_a_review_is_told_to_those_who_watch_the_run_above_when_it_can_be_decided(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    child = await engine.add("x.result -> r.data", x=IN, r=node(REVIEW, name="Send it?"))
    parent = await engine.add("x.result -> c.x", x=IN, c=call(child))
    await add(engine, site.url, "run.review", graph_id=parent)
    async with notifying(), engine.worker():
        run_id = await engine.queue(parent, x="draft")
        await within(recorded.get())
        [review] = await engine.pool.fetch("SELECT id, run_id FROM reviews")
        told = verified(site)["data"]
        assert (told["status"], told["parent_run_id"], told["run_id"]) == ("REVIEW", str(run_id), str(review["run_id"]))
        assert told["review"]["node_exec_id"] == str(review["id"])
        assert (told["review"]["payload"], told["review"]["node_id"]) == ("draft", "r")


async def test_a_webhook_of_one_run_is_told_of_that_run_alone_and_is_not_listed(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    graph_id = await engine.add(x="in")
    id, run_id = new_id(), new_id()
    async with engine.pool.acquire() as connection, connection.transaction():
        await runs.insert(connection, run_id, graph_id, 1, {})
        sealed = SEALER.seal(SECRET, webhooks.sealed_for(id))
        await webhooks.insert_for_run(connection, id, DEFAULT_USER, run_id, site.url, ENDS, sealed)
    async with notifying(), engine.worker():
        await engine.run(graph_id)
        await engine.end_of(run_id)
        await within(recorded.get())
    assert verified(site)["data"]["run_id"] == str(run_id)
    assert len(site.asked) == 1
    assert await webhooks.page(engine.pool, DEFAULT_USER, limit=10) == []


async def test_what_is_undone_is_not_told_and_what_ends_without_an_executor_is(engine: Engine):
    webhook_id = await add(engine, "http://a")
    run_id = await engine.queue(await engine.add(x="in"))
    await engine.pool.execute("UPDATE runs SET status = 'RUNNING', attempt = 1")
    end = Entry(run_id, 1, [Event(2, "run.completed", "{}")], "COMPLETED")
    async with engine.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await events.append(connection, [end]) == {run_id}
        assert await connection.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
        await transaction.rollback()
    assert await of(engine, webhook_id) == []
    ended = await stopped(engine)
    assert [(each.run_id, each.event_type) for each in await of(engine, webhook_id)] == [(ended, "run.terminated")]


# ---- When it does not go well


async def test_a_receiver_that_fails_is_told_again_with_the_same_id(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    webhook_id = await add(engine, site.url)
    answers = iter([plain(status=500, text="broken\0 "), plain(status=200)])
    site.answer = lambda request: next(answers)(request)
    async with notifying():
        await stopped(engine)
        _, failed = await within(recorded.get())
        await within(recorded.get())
    assert (failed.response_status, failed.response_excerpt) == (500, "broken� ")
    [delivery] = await of(engine, webhook_id)
    assert (delivery.status, delivery.attempts, delivery.error) == ("DELIVERED", 2, None)
    assert len({request.headers["webhook-id"] for request in site.asked}) == 1
    assert site.bodies[0] == site.bodies[1]
    stored = await webhooks.get(engine.pool, DEFAULT_USER, webhook_id)
    assert (stored.active, stored.failing_since) == (True, None)


def test_attempts_are_spread_over_three_days(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    delays = [webhook_sender._again_in(attempts, 0) for attempts in range(1, 11)]
    schedule = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert all(least <= delay <= 1.2 * least for least, delay in zip(schedule, delays, strict=False))
    assert delays[9] is None
    assert sum(schedule) == pytest.approx(3 * 86_400, rel=0.1)


@pytest.mark.parametrize("days", [2, 4])
async def test_a_webhook_of_which_nothing_has_succeeded_for_three_days_is_switched_off(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any, days: int
):
    webhook_id = await add(engine, site.url)
    site.answer = plain(status=404)
    await engine.pool.execute("UPDATE webhooks SET failing_since = now() - make_interval(days => $1)", days)
    await ping(engine, webhook_id)
    async with notifying():
        results = [(await within(recorded.get()))[1].again_in for _ in range(3)]
    assert (results[:2], results[2]) == ([0, 0], None)
    stored = await webhooks.get(engine.pool, DEFAULT_USER, webhook_id)
    assert (stored.active, stored.disabled_reason) == ((True, None) if days == 2 else (False, deliveries.GIVEN_UP))
    [delivery] = await of(engine, webhook_id)
    assert (delivery.status, delivery.attempts, delivery.error) == ("FAILED", 3, "The receiver answered 404.")
    again = await webhooks.change(engine.pool, DEFAULT_USER, webhook_id, active=True)
    assert (again.active, again.disabled_reason) == (True, None)


async def test_a_receiver_that_is_gone_is_told_nothing_more(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    webhook_id = await add(engine, site.url)
    site.answer = plain(status=410)
    await ping(engine, webhook_id)
    await engine.pool.execute("UPDATE webhook_deliveries SET next_attempt_at = now() + interval '1 hour'")
    await ping(engine, webhook_id)
    async with notifying():
        await within(recorded.get())
    stored = await webhooks.get(engine.pool, DEFAULT_USER, webhook_id)
    assert (stored.active, stored.disabled_reason) == (False, deliveries.GONE)
    await stopped(engine)
    assert [delivery.status for delivery in await of(engine, webhook_id)] == ["FAILED", "FAILED"]
    assert len(site.asked) == 1


async def test_a_receiver_that_asks_for_time_is_given_it(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    site.answer = plain(status=503, headers={"Retry-After": "120"})
    await ping(engine, await add(engine, site.url))
    async with notifying():
        _, result = await within(recorded.get())
    assert result.again_in == 120


@pytest.mark.parametrize(("asked_for", "waits"), [("7", 7), ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400), ("-1", 0)])
def test_a_time_is_understood_if_it_is_one_and_no_longer_than_a_day(asked_for: str, waits: int):
    assert webhook_sender._retry_after({"Retry-After": asked_for}) == waits


async def test_a_slow_receiver_holds_up_no_other_and_is_asked_only_so_much(
    engine: Engine, sites: Any, notifying: Notifying, recorded: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(notifier, "IN_LANE", 2)
    slow, fast = await sites(), await sites()
    fast.answer, go_on = plain(), asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.Response()

    slow.answer = wait
    slow_id, fast_id = await add(engine, slow.url), await add(engine, fast.url)
    await ping(engine, *[slow_id] * 5, fast_id, fast_id)
    async with notifying():
        first = [(await within(recorded.get()))[0].webhook_id for _ in range(2)]
        assert (first, len(slow.asked)) == ([fast_id] * 2, 2)
        go_on.set()
        assert {(await within(recorded.get()))[0].webhook_id for _ in range(5)} == {slow_id}


async def test_a_silent_receiver_and_one_that_talks_without_end_are_left(
    engine: Engine, sites: Any, notifying: Notifying, recorded: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhook_sender, "TIMEOUT", 0.5)
    monkeypatch.setattr(webhook_sender, "DELAYS", (0,))
    silent, endless = await sites(), await sites()

    async def stay_silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def go_on(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"on and " * 1000)

    silent.answer, endless.answer = stay_silent, go_on
    await ping(engine, await add(engine, silent.url), await add(engine, endless.url))
    async with notifying():
        results = sorted([(await within(recorded.get()))[1] for _ in range(2)], key=lambda each: each.delivered)
    assert [result.delivered for result in results] == [False, True]
    assert results[0].error == "The receiver did not answer within 0 seconds."
    assert results[1].response_excerpt == ("on and " * 1000)[:1024]


# ---- Which addresses are reached


async def test_redirects_are_not_followed(engine: Engine, sites: Any, notifying: Notifying, recorded: Any):
    outside, inside = await sites(), await sites()
    outside.answer = redirect(f"http://127.0.0.1:{inside.port}/")
    await ping(engine, await add(engine, outside.url))
    async with notifying((f"127.0.0.1:{outside.port}",)):
        _, result = await within(recorded.get())
    assert (result.delivered, result.error) == (False, "The receiver answered 302. Redirects are not followed.")
    assert inside.asked == []


async def test_private_addresses_are_not_reached(engine: Engine, site: Site, notifying: Notifying, recorded: Any):
    hosts = ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"]
    await ping(engine, *[await add(engine, f"http://{host}:{site.port}/") for host in hosts])
    async with notifying(()):
        errors = [(await within(recorded.get()))[1].error for _ in hosts]
    assert all("is a private address" in error for error in errors)
    assert site.asked == []


async def test_a_name_that_comes_to_lead_to_a_private_address_is_not_reached_any_more(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    site.answer = plain(status=500, headers={"Connection": "close"})
    await ping(engine, await add(engine, f"http://changing.example:{site.port}/"))
    async with notifying(site.trust, resolver=ChangingResolver("127.0.0.1", "127.0.0.2", "127.0.0.2")):
        errors = [(await within(recorded.get()))[1].error for _ in range(3)]
    assert errors[0] == "The receiver answered 500."
    assert "changing.example is a private address (127.0.0.2)" in errors[1]
    assert len(site.asked) == 1


# ---- Secrets, leases


async def test_a_secret_that_was_replaced_signs_beside_the_new_one_for_a_day(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    id = await add(engine, site.url)
    new = SEALER.seal(b"new", webhooks.sealed_for(id))
    await webhooks.replace_secret(engine.pool, DEFAULT_USER, id, new)
    async with notifying():
        await ping(engine, id)
        await within(recorded.get())
        assert verified(site, 0, SECRET) == verified(site, 0, b"new")
        await engine.pool.execute("UPDATE webhooks SET previous_until = previous_until - interval '24 hours'")
        await ping(engine, id)
        await within(recorded.get())
    assert verified(site, 1, b"new")["type"] == "webhook.test"
    with pytest.raises(WebhookVerificationError):
        verified(site, 1, SECRET)


async def test_a_secret_that_was_sealed_with_another_key_is_told_in_the_delivery(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    id = new_id()
    await webhooks.insert(engine.pool, id, DEFAULT_USER, site.url, ENDS, Sealer(b"o" * 32).seal(SECRET, "webhook"))
    await ping(engine, id)
    async with notifying():
        _, result = await within(recorded.get())
    assert "ENCRYPTION_KEY" in result.error
    assert site.asked == []


async def test_a_notifier_that_stops_gives_back_what_it_could_not_finish(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(notifier, "FINISH_WITHIN", 0.01)
    asked = asyncio.Event()

    async def stay_silent(request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        return web.Response()

    site.answer = stay_silent
    id = await add(engine, site.url)
    await ping(engine, id)
    async with notifying():
        await within(asked.wait())
    site.answer = plain()
    async with notifying():
        await within(recorded.get())
    assert [(delivery.status, delivery.attempts) for delivery in await of(engine, id)] == [("DELIVERED", 1)]


async def test_what_comes_of_an_attempt_counts_only_while_nobody_else_has_taken_it_over(engine: Engine):
    id = await add(engine, "http://a")
    await ping(engine, id)
    [late] = await deliveries.claim(engine.pool, {}, in_lane=1, at_most=1)
    assert await deliveries.claim(engine.pool, {}, in_lane=1, at_most=1) == []
    await engine.pool.execute("UPDATE webhook_deliveries SET next_attempt_at = now()")
    [successor] = await deliveries.claim(engine.pool, {}, in_lane=1, at_most=1)
    await deliveries.record(engine.pool, late, Result(False, 1, 500, error="late"))
    assert [delivery.status for delivery in await of(engine, id)] == ["PENDING"]
    await deliveries.record(engine.pool, successor, Result(True, 1, 200))
    assert [(delivery.status, delivery.attempts) for delivery in await of(engine, id)] == [("DELIVERED", 1)]


async def test_what_is_over_is_kept_for_thirty_days(engine: Engine):
    id = await add(engine, "http://a")
    await ping(engine, id, id, id)
    ids = [delivery.id for delivery in await of(engine, id)]
    await engine.pool.execute("UPDATE webhook_deliveries SET next_attempt_at = NULL WHERE id <> $1", ids[0])
    await engine.pool.execute(
        "UPDATE webhook_deliveries SET created_at = now() - interval '31 days' WHERE id <> $1", ids[1]
    )
    assert await deliveries.delete_old(engine.pool) == 1
    assert {delivery.id for delivery in await of(engine, id)} == set(ids[:2])


async def test_a_webhook_can_be_switched_off_while_a_result_is_written_down(engine: Engine):
    id = await add(engine, "http://a")
    await ping(engine, id)
    async with engine.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM webhook_deliveries FOR UPDATE")
        await within(webhooks.change(engine.pool, DEFAULT_USER, id, active=False))
    [due] = await deliveries.claim(engine.pool, {}, in_lane=1, at_most=1)
    assert not due.active


async def test_the_end_of_a_run_that_was_deleted_meanwhile_is_told_all_the_same(
    engine: Engine, site: Site, notifying: Notifying, recorded: Any
):
    await add(engine, site.url)
    run_id = await stopped(engine)
    assert await delete_run(engine.pool, run_id)
    async with notifying():
        await within(recorded.get())
    told = verified(site)["data"]
    assert (told["run_id"], told["status"], told["deleted"]) == (str(run_id), "TERMINATED", True)
