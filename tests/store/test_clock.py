"""The time by the database's clock, whatever this machine's says."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from backend.store import clock
from backend.store.clock import Clock

HOUR = timedelta(hours=1)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds go by."""
    now = time.monotonic()

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now))
    return go_on


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_it_is_what_the_database_told_and_goes_on_by_itself(wait: Callable[[float], None], ahead: timedelta):
    here = Clock()
    told = datetime.now(UTC) + ahead
    asked = clock.time.monotonic()
    wait(0.5)
    here.told(told, asked)
    assert here.now() == told
    wait(10)
    assert here.now() == told + timedelta(seconds=10)


def test_an_answer_that_was_long_under_way_does_not_put_it_back(wait: Callable[[float], None]):
    here = Clock()
    told, asked = here.now() + timedelta(seconds=1), clock.time.monotonic()
    wait(30)
    before = here.now()
    here.told(told, asked)
    assert here.now() == before
