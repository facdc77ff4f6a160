"""Schedules by way of the API: what is refused is told field by field; pausing, changing, firing do what they say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from backend.execution.firing import fire_all_due
from tests.api.server import ECHO

SOON = (datetime.now(UTC) + timedelta(days=300)).replace(microsecond=0)


@pytest.fixture
async def graph_id(api: Any) -> str:
    async with api.post("/api/v2/graphs", json=ECHO) as answer:
        return (await answer.json())["id"]


@pytest.fixture
def asked(api: Any):
    async def ask(method: str, path: str = "", status: int = 200, **body: Any) -> Any:
        given = {"json": body} if body else {}
        async with api.request(method, f"/api/v2/schedules{path}", **given) as answer:
            assert answer.status == status, await answer.text()
            return None if status == 204 else await answer.json()

    return ask


@pytest.fixture
def create(asked: Any, graph_id: str):
    async def create(status: int = 201, **given: Any) -> Any:
        body = {"name": "Daily", "graph_id": graph_id, "inputs": {"Input": 5}, "cron": "30 9 * * *"} | given
        return await asked("POST", "", status, **{name: value for name, value in body.items() if value is not ...})

    return create


async def test_a_schedule_is_made_listed_and_deleted(create: Any, asked: Any, graph_id: str):
    made = await create(timezone="Europe/Berlin")
    assert (made["status"], made["misfire"], made["graph_version"], len(made["next_run_times"])) == (
        "ACTIVE", "once", None, 5,
    )  # fmt: skip
    first = made["next_run_times"][0]
    assert (first["utc"], first["local"][11:16]) == (made["next_run_time"], "09:30")
    listed = await asked("GET", f"?graph_id={graph_id}")
    assert (listed["total_count"], [each["id"] for each in listed["items"]]) == (1, [made["id"]])
    assert (await asked("GET", f"?graph_id={uuid4()}"))["items"] == []
    assert await asked("GET", f"/{made['id']}") == made
    assert len((await asked("GET", f"/{made['id']}/next?count=9"))["next_run_times"]) == 9
    await asked("DELETE", f"/{made['id']}", 204)
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/fire")]:
        assert (await asked(method, f"/{made['id']}{path}", 404))["code"] == "unknown_schedule"


async def test_the_body_of_upstream_is_taken(create: Any):
    made = await create(inputs=..., input_data={"Input": 7}, credentials={}, graph_version=1)
    assert (made["inputs"], made["graph_version"]) == ({"Input": 7}, 1)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"cron": "0 25 * * *"}, "/cron", "`25` is no hour: 0-23"),
    ({"cron": "0 0 30 2 *"}, "/cron", "no such day"),
    ({"timezone": "Europe/Berln"}, "/timezone", "`Europe/Berlin`"),
    ({"cron": ...}, "", "either `cron` or `run_at`"),
    ({"run_at": "2999-01-01T00:00:00Z"}, "", "either `cron` or `run_at`"),
    ({"cron": ..., "run_at": "2020-01-01T00:00:00"}, "/run_at", "is over"),
    ({"cron": ..., "run_at": "2030-03-31T02:30:00", "timezone": "Europe/Berlin"}, "/run_at", "does not exist"),
    ({"cron": ..., "run_at": "9999-12-31T23:59:59"}, "/run_at", "9000 at most"),
    ({"name": "\0"}, "/name", "U+0000"),
]


async def test_what_is_wrong_is_told_by_its_place(create: Any):
    for given, pointer, told in WRONG:
        refused = await create(422, **given)
        assert [error["pointer"] for error in refused["errors"]] == [pointer]
        assert told in refused["detail"]


async def test_what_a_start_would_refuse_is_refused_at_once(create: Any, api: Any):
    assert (await create(422, inputs={}))["code"] == "invalid_inputs"
    assert (await create(404, graph_id=str(uuid4())))["code"] == "unknown_graph"
    assert (await create(404, graph_version=2))["code"] == "unknown_graph"
    broken = ECHO | {"nodes": [{"id": "x", "block_id": "gone"}], "links": []}
    async with api.post("/api/v2/graphs", json=broken) as answer:
        graph_id = (await answer.json())["id"]
    assert (await create(422, graph_id=graph_id))["code"] == "graph_not_runnable"


async def test_a_time_is_by_the_clock_of_the_zone(create: Any):
    local = SOON.replace(tzinfo=None).isoformat()
    made = await create(cron=..., run_at=local, timezone="Asia/Tokyo")
    assert datetime.fromisoformat(made["run_at"]) == SOON - timedelta(hours=9)
    assert made["next_run_times"][0]["local"] == f"{local}+09:00"


async def test_what_is_changed_changes_and_the_rest_stays(create: Any, asked: Any):
    made = await create(timezone="Asia/Tokyo")
    path = f"/{made['id']}"
    renamed = await asked("PATCH", path, name="Other")
    assert renamed == made | {"name": "Other"}
    assert (await asked("PATCH", path, 422, inputs={"Wrong": 1}))["code"] == "invalid_inputs"
    once = await asked("PATCH", path, run_at=SOON.isoformat())
    assert (once["cron"], datetime.fromisoformat(once["next_run_time"])) == (None, SOON)
    assert (await asked("PATCH", path, timezone="UTC"))["next_run_time"] == once["next_run_time"]
    again = await asked("PATCH", path, cron="0 7 * * *")
    assert (again["run_at"], again["next_run_times"][0]["local"][11:]) == (None, "07:00:00Z")
    await asked("PATCH", path, 422, name=None)


async def test_a_paused_schedule_does_not_make_up_for_what_it_missed(create: Any, asked: Any, database: Any):
    made = await create(cron="* * * * *")
    paused = await asked("POST", f"/{made['id']}/pause")
    assert (paused["status"], paused["next_run_time"]) == ("PAUSED", None)
    await database.execute("UPDATE schedules SET next_run_at = now() - interval '1 day'")
    assert await fire_all_due(database) is None
    resumed = await asked("POST", f"/{made['id']}/resume")
    assert (resumed["status"], resumed["next_run_time"] >= made["next_run_time"]) == ("ACTIVE", True)
    assert await fire_all_due(database) > 0
    assert resumed["last_run_id"] is None


async def test_fired_it_begins_a_run_that_knows_it(create: Any, asked: Any, api: Any):
    made = await create()
    run = await asked("POST", f"/{made['id']}/fire", 202)
    assert (run["schedule_id"], run["inputs"], run["status"]) == (made["id"], {"Input": 5}, "QUEUED")
    async with api.get(f"/api/v2/runs?schedule_id={made['id']}") as answer:
        assert [each["id"] for each in (await answer.json())["items"]] == [run["id"]]
    assert await asked("GET", f"/{made['id']}") == made


async def test_what_is_anothers_is_not_there(create: Any, asked: Any, graph_id: str, database: Any):
    made = await create()
    await database.execute("UPDATE schedules SET user_id = gen_random_uuid()")
    assert (await asked("GET"))["total_count"] == 0
    for method, path in [("GET", ""), ("GET", "/next"), ("DELETE", ""), ("POST", "/pause"), ("POST", "/fire")]:
        assert (await asked(method, f"/{made['id']}{path}", 404))["code"] == "unknown_schedule"
    await asked("PATCH", f"/{made['id']}", 404, name="mine")
    await database.execute("UPDATE graphs SET user_id = gen_random_uuid()")
    assert (await create(404))["code"] == "unknown_graph"
