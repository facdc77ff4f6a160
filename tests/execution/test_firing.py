"""Schedules that are due: one run for each time, whoever looks, dies, or has a wrong clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from backend.execution import firing
from backend.execution.firing import BATCH, fire_all_due, keep_schedules
from backend.execution.timetable import upcoming
from backend.store import runs, schedules
from backend.store.schedules import Advance, StoredSchedule
from backend.store.users import DEFAULT_USER
from tests.execution.engine import Engine

HOURLY = "0 * * * *"


@pytest.fixture
async def graph_id(engine: Engine) -> UUID:
    return await engine.add("x.result -> y.value", x="in", y="out")


@pytest.fixture
def add(engine: Engine, graph_id: UUID) -> Any:
    """Stores a schedule, which was to begin runs since some time."""

    async def add(since: timedelta = timedelta(seconds=1), **given: Any) -> StoredSchedule:
        said: dict[str, Any] = {
            "name": "s", "graph_id": graph_id, "cron": HOURLY, "timezone": "UTC", "inputs": {"x": 1}, "credentials": {},
            "misfire": "once", "next_run_at": await schedules.now(engine.pool) - since,
        }  # fmt: skip
        return await schedules.insert(engine.pool, uuid4(), DEFAULT_USER, **said | given)

    return add


async def fired(engine: Engine, schedule: StoredSchedule) -> tuple[StoredSchedule, int]:
    """The schedule as it is now, and how many runs it began."""
    found = await schedules.get(engine.pool, schedule.id, DEFAULT_USER)
    assert found
    return found, await runs.count(engine.pool, DEFAULT_USER, schedule_id=schedule.id)


async def test_a_schedule_that_is_due_begins_a_run_and_moves_on(engine: Engine, add: Any):
    schedule = await add()
    await fire_all_due(engine.pool)
    after, count = await fired(engine, schedule)
    assert (count, after.last_run_at, after.last_error) == (1, schedule.next_run_at, None)
    assert after.next_run_at == upcoming(HOURLY, "UTC", schedule.next_run_at, 1)[0]
    run = await runs.get(engine.pool, after.last_run_id)
    assert (run.schedule_id, run.inputs, run.status, run.graph_version) == (schedule.id, {"x": 1}, "QUEUED", 1)
    async with engine.worker():
        run, history = await engine.end_of(run.id)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": [1]})


async def test_any_number_of_schedulers_begin_one_run_for_each_time(engine: Engine, add: Any):
    many = [await add() for _ in range(BATCH + 20)]
    await asyncio.gather(*(fire_all_due(engine.pool) for _ in range(4)))
    begun = await engine.pool.fetch("SELECT schedule_id FROM runs")
    assert Counter(row["schedule_id"] for row in begun) == {each.id: 1 for each in many}
    assert await engine.pool.fetchval("SELECT count(*) FROM run_events") == len(many)


@pytest.mark.parametrize("step", ["insert_begun", "advance"])
async def test_what_a_scheduler_that_is_killed_did_halfway_another_does_once(
    engine: Engine, add: Any, monkeypatch: pytest.MonkeyPatch, step: str
):
    """The database sees of a kill that the connection breaks."""
    module = {"insert_begun": runs, "advance": schedules}[step]
    done = getattr(module, step)
    dying = True

    async def die(connection: Any, given: Any) -> None:
        nonlocal dying
        await done(connection, given)
        if dying:
            dying = False
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(module, step, die)
    schedule = await add()
    with pytest.raises(firing.PASSING):
        await fire_all_due(engine.pool)
    assert (await fired(engine, schedule))[1] == 0
    await asyncio.gather(fire_all_due(engine.pool), fire_all_due(engine.pool))
    assert (await fired(engine, schedule))[1] == 1


async def test_a_time_that_comes_again_by_a_wrong_clock_begins_no_second_run(engine: Engine, add: Any):
    schedule = await add()
    for _ in range(2):
        # As if the clock had been put back over it.
        await schedules.change(engine.pool, schedule.id, DEFAULT_USER, next_run_at=schedule.next_run_at)
        await fire_all_due(engine.pool)
    assert (await fired(engine, schedule))[1] == 1


async def test_a_schedule_that_was_reckoned_by_a_clock_ahead_is_reckoned_anew(engine: Engine, add: Any):
    ahead = timedelta(days=365)
    schedule, one_shot = await add(-ahead), await add(-ahead, cron=None, run_at=datetime(2999, 1, 1, tzinfo=UTC))
    await engine.pool.execute("UPDATE schedules SET advanced_at = now() + $1", ahead)
    left = await fire_all_due(engine.pool)
    after, count = await fired(engine, schedule)
    assert (count, after.next_run_at) == (0, upcoming(HOURLY, "UTC", await schedules.now(engine.pool), 1)[0])
    assert 0 < left <= 3600
    assert (await fired(engine, one_shot))[0].next_run_at == one_shot.next_run_at


async def test_times_that_were_missed_are_made_up_for_as_asked(engine: Engine, add: Any):
    now = await schedules.now(engine.pool)
    minute = (now.minute + 30) % 60  # never just now
    last = now.replace(minute=minute, second=0, microsecond=0) - timedelta(hours=0 if minute < now.minute else 1)
    missed = {"next_run_at": last - timedelta(hours=2), "cron": f"{minute} * * * *"}
    expected = {"once": (1, last), "skip": (0, None), "all": (3, last)}
    added = {misfire: await add(misfire=misfire, **missed) for misfire in expected}
    await fire_all_due(engine.pool)
    for misfire, schedule in added.items():
        after, begun = await fired(engine, schedule)
        assert (begun, after.last_run_at) == expected[misfire]
        assert after.next_run_at == last + timedelta(hours=1)


async def test_however_many_were_missed_no_more_than_a_hundred_begin(engine: Engine, add: Any):
    schedule = await add(timedelta(days=400), cron="* * * * *", misfire="all")
    await fire_all_due(engine.pool)
    assert (await fired(engine, schedule))[1] == 100


async def test_a_paused_schedule_begins_nothing(engine: Engine, add: Any):
    schedule = await add(paused=True)
    assert await fire_all_due(engine.pool) is None
    assert await fired(engine, schedule) == (schedule, 0)


async def test_a_time_said_by_people_begins_one_run_and_that_was_it(engine: Engine, add: Any):
    schedule = await add(cron=None, run_at=datetime(2026, 1, 1, tzinfo=UTC))
    await fire_all_due(engine.pool)
    after, count = await fired(engine, schedule)
    assert (count, after.next_run_at) == (1, None)


async def test_a_schedule_that_cannot_begin_says_why_and_goes_on_trying(engine: Engine, add: Any):
    broken = [
        (await add(graph_id=UUID(int=1)), "There is no graph 00000000-0000-0000-0000-000000000001"),
        (await add(graph_version=7), "There is no graph"),
        (await add(inputs={"y": 1}), "The input `y` is none of this agent's"),
    ]
    sound = await add()
    await fire_all_due(engine.pool)
    assert (await fired(engine, sound))[1] == 1
    good = {"graph_id": sound.graph_id, "graph_version": None, "inputs": {"x": 1}}
    for schedule, told in broken:
        after, count = await fired(engine, schedule)
        assert (count, after.next_run_at > schedule.next_run_at) == (0, True)
        assert told in after.last_error
        await schedules.change(engine.pool, schedule.id, DEFAULT_USER, **good, next_run_at=schedule.next_run_at)
    await fire_all_due(engine.pool)
    for schedule, _ in broken:
        after, count = await fired(engine, schedule)
        assert (count, after.last_error) == (1, None)


async def test_one_schedule_that_cannot_be_reckoned_holds_up_no_other(engine: Engine, add: Any):
    broken, sound = await add(timezone="Gone/Away"), await add()
    await fire_all_due(engine.pool)
    assert (await fired(engine, sound))[1] == 1
    after, _ = await fired(engine, broken)
    assert "Gone/Away" in after.last_error
    assert after.next_run_at > broken.next_run_at


async def test_a_scheduler_that_sleeps_is_told_of_a_schedule_and_wakes_when_it_is_due(
    engine: Engine, add: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(firing, "LOOK_AT_LEAST_EVERY", 3600)
    looks, advanced = asyncio.Queue[None](), asyncio.Event()
    advance, seconds_to_next = schedules.advance, schedules.seconds_to_next

    async def tell_advance(connection: Any, advances: list[Advance]) -> None:
        await advance(connection, advances)
        advanced.set()

    async def tell_look(connection: Any) -> float | None:
        looks.put_nowait(None)
        return await seconds_to_next(connection)

    monkeypatch.setattr(schedules, "advance", tell_advance)
    monkeypatch.setattr(schedules, "seconds_to_next", tell_look)
    keeping = asyncio.create_task(keep_schedules(engine.pool, engine.settings.database_url))
    async with asyncio.timeout(20):
        for _ in range(2):  # at first, and when it has begun to listen
            await looks.get()
        await add(timedelta(hours=-1))
        await looks.get()
        await add(timedelta(seconds=-0.3))
        await advanced.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
