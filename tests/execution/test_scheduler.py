"""Who is taken for dead: an executor whose heartbeat stands still while somebody looks, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from backend.execution import scheduler
from backend.execution.scheduler import RESCUE_EVERY, Watch, keep_house
from backend.store import executors

ID = UUID(int=1)
BEAT = datetime(2026, 1, 1, tzinfo=UTC)
AFTER_AN_HOUR = timedelta(hours=1)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds go by for the scheduler."""
    now = 0.0

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(scheduler, "time", SimpleNamespace(monotonic=lambda: now))
    return go_on


def looks(watch: Watch, wait: Callable[[float], None], *beats: datetime) -> list[bool]:
    """At each of some looks, whether the executor is taken for dead."""
    found = []
    for beat in beats:
        wait(RESCUE_EVERY)
        found.append(ID in watch.silent({ID: beat}))
    return found


def test_an_executor_whose_heartbeat_stands_still_is_dead(wait: Callable[[float], None]):
    assert looks(Watch(), wait, *[BEAT] * 5) == [False] * 3 + [True] * 2


@pytest.mark.parametrize("jump", [-AFTER_AN_HOUR, AFTER_AN_HOUR])
def test_the_clock_of_the_database_may_jump(wait: Callable[[float], None], jump: timedelta):
    watch = Watch()
    assert looks(watch, wait, BEAT, BEAT + jump, BEAT + jump + timedelta(seconds=1)) == [False] * 3
    assert looks(watch, wait, *[BEAT + jump] * 4)[-1], "and who dies then is dead at once"


def test_an_executor_that_speaks_again_begins_anew(wait: Callable[[float], None]):
    later = BEAT + timedelta(seconds=1)
    assert looks(Watch(), wait, BEAT, BEAT, BEAT, later, later, later, BEAT) == [False] * 7


def test_a_scheduler_that_was_stopped_itself_takes_nobody_for_dead(wait: Callable[[float], None]):
    watch = Watch()
    looks(watch, wait, BEAT)
    wait(3600)
    assert watch.silent({ID: BEAT}) == {}


async def test_while_the_database_is_away_nobody_is_silent(monkeypatch: pytest.MonkeyPatch):
    """It answers every other look, so no two in a row show that the heartbeat stands still."""
    stopping = asyncio.Event()
    looks = cycle([True, False])
    taken_for_dead: list[dict[UUID, datetime]] = []

    async def heartbeats(_: Any) -> dict[UUID, datetime]:
        if next(looks):
            return {ID: BEAT}
        raise ConnectionRefusedError

    async def forget(_: Any, silent: dict[UUID, datetime]) -> None:
        taken_for_dead.append(silent)
        if len(taken_for_dead) == 10:
            stopping.set()

    async def nothing(_: Any) -> None: ...

    monkeypatch.setattr(scheduler, "RESCUE_EVERY", 0.001)
    monkeypatch.setattr(scheduler, "DEAD_AFTER", 0.0001)
    monkeypatch.setattr(executors, "heartbeats", heartbeats)
    monkeypatch.setattr(executors, "forget", forget)
    monkeypatch.setattr(scheduler, "rescue", nothing)
    monkeypatch.setattr(scheduler, "wake", nothing)
    await keep_house(None, stopping)
    assert taken_for_dead == [{}] * 10
