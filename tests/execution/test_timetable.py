"""The times that are meant: at changes of the clock, after long outages, and by people who mistype."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest

from backend.execution.timetable import WrongTime, check_cron, check_zone, due, firings, moment, upcoming

BERLIN = "Europe/Berlin"
# The clock goes from 02:00 to 03:00, and from 03:00 to 02:00.
SPRING = datetime(2027, 3, 28, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC) - timedelta(seconds=1)
AUTUMN = datetime(2026, 10, 25, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC) - timedelta(seconds=1)


@pytest.mark.parametrize(
    ("cron", "after", "local"),
    [
        ("30 2 * * *", SPRING, "03:00+2 02:30+2"),
        ("0,30 2 * * *", SPRING, "03:00+2 02:00+2 02:30+2"),
        ("30 2-3 * * *", SPRING, "03:00+2 03:30+2 02:30+2"),
        ("0 * * * *", SPRING, "00:00+1 01:00+1 03:00+2 04:00+2"),
        ("*/15 1-3 * * *", SPRING, "01:00+1 01:15+1 01:30+1 01:45+1 03:00+2 03:15+2"),
        ("0 */2 * * *", SPRING, "00:00+1 04:00+2"),
        ("30 2 * * *", AUTUMN, "02:30+2 02:30+1"),
        ("0 * * * *", AUTUMN, "00:00+2 01:00+2 02:00+2 02:00+1 03:00+1"),
        ("*/30 2 * * *", AUTUMN, "02:00+2 02:30+2 02:00+1 02:30+1"),
    ],
)
def test_at_changes_of_the_clock_it_is_as_in_debians_cron(cron: str, after: datetime, local: str):
    expected = local.split()
    found = [time.astimezone(ZoneInfo(BERLIN)) for time in upcoming(cron, BERLIN, after, len(expected))]
    assert [f"{time:%H:%M}+{time.utcoffset().seconds // 3600}" for time in found] == expected


def test_a_time_that_comes_twice_is_over_after_the_first():
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    [following] = upcoming("30 2 * * *", BERLIN, between, 1)
    assert following == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["*/5 * * * *", "30 2 * * *", "0 9 1 * *", "*/7 3,4 * * MON"])
def test_the_last_times_of_many_are_those_that_a_look_at_all_finds(cron: str):
    first, *_ = upcoming(cron, BERLIN, SPRING - timedelta(days=40), 1)
    now = SPRING + timedelta(days=2)
    times = list(takewhile(lambda time: time <= now, firings(cron, BERLIN, first - timedelta(seconds=1))))
    for wanted in (1, 100):
        assert due(cron, BERLIN, first, now, wanted) == times[-wanted:]


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("* * * *", "five fields, minute, hour, day-of-month, month, day-of-week, and not 4"),
        ("0 0 9 * * *", "and not 6"),
        ("@daily", "and not 1"),
        ("60 * * * *", "`60` is no minute: 0-59"),
        ("* 24 * * *", "`24` is no hour: 0-23"),
        ("* * * FOO *", "`FOO` is no month: 1-12 or JAN-DEC"),
        ("* * * * ²L", "`²L` is no day-of-week"),
        ("0 0 30 2 *", "there is no such day"),
        ("0 0 */5 2 MON#5", "there is no such day"),
    ],
)
def test_a_wrong_cron_expression_is_told_field_by_field(cron: str, told: str):
    with pytest.raises(WrongTime) as refused:
        check_cron(cron)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("zone", "told"), [("europe/berlin", "`Europe/Berlin`"), ("Berlin", "`Europe/Berlin`"), ("\0", "IANA"), ("..", "")]
)
def test_an_unknown_zone_is_told_with_those_that_are_like_it(zone: str, told: str):
    with pytest.raises(WrongTime) as refused:
        check_zone(zone)
    assert told in str(refused.value)


def test_a_time_without_an_offset_is_by_the_clock_of_the_zone():
    assert moment(datetime(2026, 10, 25, 2, 30), BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    with pytest.raises(WrongTime, match="2027-03-28 02:30 does not exist in Europe/Berlin"):
        moment(datetime(2027, 3, 28, 2, 30), BERLIN)
