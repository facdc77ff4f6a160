"""Starting runs once however often it is asked for, only checking, and finding runs by what was said at their start."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from backend.store import idempotency
from backend.store.connection import Pool
from tests.api.server import ECHO
from tests.api.test_reruns import Agent

RUNS = "/api/v2/runs"
BODY = {"inputs": {"Input": 5}}


def with_key(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def number_of_runs(api: Any, **filters: Any) -> int:
    async with api.get(RUNS, params=filters) as answer:
        return (await answer.json())["total_count"]


async def test_twenty_requests_at_once_with_one_key_begin_one_run(api, echo):
    async def start() -> tuple[str, str | None, int, str]:
        async with api.post(echo, json=BODY, headers=with_key("k")) as answer:
            run = await answer.json()
            return answer.headers["Location"], answer.headers.get("Idempotent-Replayed"), answer.status, run["id"]

    answers = await asyncio.gather(*(start() for _ in range(20)))
    assert len({(location, status, id) for location, _, status, id in answers}) == 1
    assert sorted(str(replayed) for _, replayed, _, _ in answers) == ["None", *["true"] * 19]
    assert await number_of_runs(api) == 1


async def test_a_key_stands_for_one_request_of_one_user(api, echo, database: Pool):
    async with api.post(echo, json=BODY, headers=with_key("k")) as answer:
        first = await answer.json()
    for path, body in (
        (echo, {"inputs": {"Input": 6}}),
        (echo, BODY | {"priority": 1}),
        (f"{echo}?version=1", BODY),
        (f"{RUNS}/{first['id']}/retry", None),
    ):
        async with api.post(path, json=body, headers=with_key("k")) as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"]) == (422, "idempotency_key_reused")
    async with api.post(echo, json={"priority": 0, **BODY}, headers=with_key("k")) as answer:
        assert (await answer.json())["id"] == first["id"], "what is left out is its default"
    await database.execute("UPDATE idempotency_keys SET user_id = gen_random_uuid()")
    async with api.post(echo, json=BODY, headers=with_key("k")) as answer:
        assert (await answer.json())["id"] != first["id"]


async def test_a_request_that_is_refused_does_not_use_the_key_up(api, echo):
    for body in ({"inputs": {}}, {"inputs": {"Input": 5}, "priority": 1000}):
        async with api.post(echo, json=body, headers=with_key("k")) as answer:
            assert answer.status == 422
    async with api.post(echo, json=BODY | {"dry_run": True}, headers=with_key("k")) as answer:
        assert answer.status == 200
    async with api.post(echo, json=BODY, headers=with_key("k")) as answer:
        assert (answer.status, answer.headers.get("Idempotent-Replayed")) == (202, None)


async def test_a_key_is_free_again_after_a_day(api, echo, database: Pool):
    ids: set[str] = set()
    for hours in (23, 2, 0):
        async with api.post(echo, json=BODY, headers=with_key("k")) as answer:
            ids.add((await answer.json())["id"])
        await idempotency.delete_old(database)
        await database.execute(
            "UPDATE idempotency_keys SET created_at = created_at - $1::interval", timedelta(hours=hours)
        )
    assert len(ids) == 2
    await database.execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
    await idempotency.delete_old(database)
    assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0


@pytest.mark.parametrize("key", ["x" * 256, "a b", "é", ""])
async def test_a_key_that_is_none_is_refused_by_name(api, echo, key):
    async with api.post(echo, json=BODY, headers=with_key(key)) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["errors"][0]["parameter"]) == (422, "idempotency-key")


async def test_running_again_is_once_too_and_a_repeated_request_may_wait_for_the_end(api, executor, echo):
    async with api.post(echo, json=BODY, headers=with_key("first"), params={"wait": 20}) as answer:
        first = await answer.json()
        assert answer.status == 200
    async with api.post(echo, json=BODY, headers=with_key("first"), params={"wait": 20}) as answer:
        assert (answer.status, await answer.json()) == (200, first)
    for how, body in (("rerun", {}), ("fork", {"inputs": {"Input": 6}})):
        ids: set[str] = set()
        for _ in range(3):
            async with api.post(f"{RUNS}/{first['id']}/{how}", json=body, headers=with_key(how)) as answer:
                assert answer.status == 202
                ids.add((await answer.json())["id"])
        assert len(ids) == 1
    assert await number_of_runs(api, rerun_of=first["id"]) == 2


async def test_a_dry_run_checks_everything_and_stores_nothing(api):
    default = ECHO["nodes"][0] | {"id": "own", "input_default": {"name": "Own", "value": 7}}
    agent = await Agent(api).store([*ECHO["nodes"], default])
    path = f"/api/v2/graphs/{agent.graph_id}/runs"
    async with api.post(path, json=BODY | {"dry_run": True}) as answer:
        shown = await answer.json()
    assert (answer.status, shown["dry_run"], shown["graph_version"]) == (200, True, 1)
    assert shown["inputs"] == {"Input": 5, "Own": 7}
    assert {node["node_id"] for node in shown["nodes"]} == {*agent.ids.values()}
    async with api.post(path, json={"dry_run": True}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (422, "invalid_inputs")
    assert await number_of_runs(api) == 0


async def test_a_start_may_bring_a_webhook_that_is_told_of_its_run_alone(api, executor, echo, database: Pool):
    hook = {"url": "https://example.com/hook", "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}
    ids: list[str] = []
    for body in (BODY | {"webhook": hook}, BODY):
        async with api.post(echo, json=body, params={"wait": 20}) as answer:
            assert answer.status == 200, await answer.text()
            ids.append((await answer.json())["id"])
    told = await database.fetch("SELECT run_id, event_type FROM webhook_deliveries")
    assert [(str(row["run_id"]), row["event_type"]) for row in told] == [(ids[0], "run.completed")]
    for wrong in ({"url": "http://10.0.0.1/"}, {"url": "ftp://x"}, {**hook, "secret": "whsec_YQ=="}, {}):
        async with api.post(echo, json=BODY | {"webhook": wrong}) as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["errors"][0]["pointer"][:9]) == (422, "/webhook/")
    assert await number_of_runs(api) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"priority": "3"}, "/priority"),
        ({"priority": True}, "/priority"),
        ({"dry_run": 1}, "/dry_run"),
        ({"nonsense": 1}, "/nonsense"),
        ({"labels": {"a": 1}}, "/labels/a"),
        ({"labels": {"a:b": "x"}}, "/labels/a:b/[key]"),
        ({"labels": {"a" * 65: "x"}}, f"/labels/{'a' * 65}/[key]"),
        ({"labels": {"a": "x" * 201}}, "/labels/a"),
        ({"labels": {str(n): "x" for n in range(21)}}, "/labels"),
    ],
)
async def test_what_is_not_what_it_should_be_is_refused_by_its_place(api, echo, body, pointer):
    async with api.post(echo, json=BODY | body) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, [each["pointer"] for each in problem["errors"]]) == (422, [pointer])


async def test_what_clients_of_upstream_send_is_taken(api, echo):
    async with api.post(echo, json=BODY | {"source": "api", "credentials_inputs": {}, "preset_id": None}) as answer:
        run = await answer.json()
        assert answer.status == 202
    assert (run["cost_cents"], run["is_shared"], run["share_token"], run["preset_id"]) == (0, False, None, None)


async def test_runs_are_found_by_their_labels_which_reruns_inherit(api, executor, echo):
    ids: list[str] = []
    for labels in ({}, {"customer": "1", "kind": "a:b"}, {"customer": "2", "kind": "a:b"}):
        async with api.post(echo, json=BODY | {"labels": labels}, params={"wait": 20}) as answer:
            run = await answer.json()
            assert run["labels"] == labels
            ids.append(run["id"])
    async with api.post(f"{RUNS}/{ids[1]}/rerun") as answer:
        again = await answer.json()
        assert again["labels"] == {"customer": "1", "kind": "a:b"}
    found = {
        "customer:1": [again["id"], ids[1]],
        "kind:a:b": [again["id"], ids[2], ids[1]],
        "kind:a": [],
    }
    for label, expected in found.items():
        async with api.get(RUNS, params={"label": label}) as answer:
            page = await answer.json()
            assert ([run["id"] for run in page["items"]], page["total_count"]) == (expected, len(expected))
    both = [("label", "kind:a:b"), ("label", "customer:2"), ("statuses", "COMPLETED")]
    async with api.get(echo, params=both) as answer:
        assert [run["id"] for run in (await answer.json())["items"]] == [ids[2]]
    async with api.delete(f"{RUNS}/{ids[2]}") as answer:
        assert answer.status == 204
    assert await number_of_runs(api, label="customer:2") == 0
    async with api.get(RUNS, params={"label": "no colon"}) as answer:
        assert answer.status == 422


async def test_runs_are_found_by_when_they_started_however_long_they_had_waited(api, start_run, queue_run, database):
    early, late, _ = await start_run(), await start_run(), await queue_run()
    await database.execute(
        "UPDATE runs SET created_at = '2025-01-01', started_at = '2025-01-02' WHERE id = $1", early.id
    )
    await database.execute(
        "UPDATE runs SET created_at = '2025-01-01', started_at = '2025-03-01' WHERE id = $1", late.id
    )

    async def started(**filters: str) -> list[str]:
        async with api.get(RUNS, params=filters) as answer:
            assert answer.status == 200, await answer.text()
            return [run["id"] for run in (await answer.json())["items"]]

    assert await started(started_after="2025-02-01T00:00:00Z") == [str(late.id)]
    assert await started(started_after="2025-01-02T00:00:00", started_before="2025-02-01T00:00:00+02:00") == [
        str(early.id)
    ]
    assert await started(started_before="2025-01-02") == []
    assert len(await started(started_before=f"{datetime.max.year}-12-31T00:00:00Z")) == 2
    for wrong in ("yesterday", "0001-01-01T00:00:00+14:00"):
        async with api.get(RUNS, params={"started_after": wrong}) as answer:
            assert answer.status == 422


async def test_the_outputs_of_a_run_are_to_be_had_alone(api, start_run):
    run = await start_run()
    for name, value in (("a", 1), ("b", "x" * 20_000), ("a", 2)):
        await run.write("run.output", name=name, value=value, node_run=1)
    async with api.get(f"{RUNS}/{run.id}/outputs") as answer:
        assert await answer.json() == {"a": [1, 2], "b": ["x" * 20_000]}
    async with api.get(f"{RUNS}/{run.id}/outputs", params=[("name", "b"), ("name", "c")]) as answer:
        assert list(await answer.json()) == ["b"]


async def test_what_is_shared_shows_its_outputs_to_everybody_and_nothing_else(api, start_run):
    run = await start_run()
    await run.write("run.output", name="Output", value=7, node_run=1)
    async with api.post(f"{RUNS}/{run.id}/share") as answer:
        assert answer.status == 201
        share = await answer.json()
    async with api.post(f"{RUNS}/{run.id}/share") as answer:
        assert (answer.status, await answer.json()) == (200, share)
    async with api.get(f"{RUNS}/{run.id}") as answer:
        shown = await answer.json()
        assert (shown["is_shared"], shown["share_token"]) == (True, share["share_token"])
    async with api.get(share["share_url"]) as answer:
        shared = await answer.json()
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert set(shared) == {"graph_name", "status", "created_at", "started_at", "ended_at", "outputs"}
    assert (shared["graph_name"], shared["outputs"]) == ("Echo", {"Output": [7]})
    for _ in range(2):
        async with api.delete(f"{RUNS}/{run.id}/share") as answer:
            assert answer.status == 204
    for token in (share["share_token"], "x", "%00", "a" * 5000):
        async with api.get(f"/api/v2/shared/{token}") as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_share")
