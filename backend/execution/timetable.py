"""The times of a schedule: those that a cron expression means by the clock of a time zone, and times said by people.

At changes of the clock it is as in Debian's cron. A job at fixed times, whose minute and hour do not begin with `*`,
runs once on such a day, too: a time that is skipped is made up for when the clock has gone forward, and one that comes
twice counts the first time. Any other job goes by the clock as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

MAX_CRON = 200  # characters
FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, or L for the last",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 0 and 7 being Sunday",
}


class WrongTime(Exception):
    """The message says in a sentence what is wrong, and what is expected."""


def check_cron(cron: str) -> None:
    """Raises WrongTime if it is none, or never comes true."""
    parts = cron.split()
    if len(parts) != len(FIELDS):
        raise WrongTime(
            f"a cron expression has five fields, {', '.join(FIELDS)}, and not {len(parts)}: `0 9 * * MON-FRI`, say"
        )
    for name, part, place in zip(FIELDS, parts, range(len(FIELDS)), strict=True):
        alone = ["*"] * len(FIELDS)
        alone[place] = part
        if not _is_cron(" ".join(alone)):
            raise WrongTime(
                f"`{part}` is no {name}: {FIELDS[name]} is expected, `*`, or of these a range (1-5), a list (1,3) or a"
                " step (*/5)"
            )
    if not _is_cron(cron) or next(firings(cron, "UTC", datetime.now(UTC)), None) is None:
        raise WrongTime("there is no such day, in fifty years: look at day-of-month, month and day-of-week together")


def _is_cron(cron: str) -> bool:
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


@cache
def _zones() -> dict[str, str]:
    """The names of the time zones by how they are written in small letters."""
    return {name.casefold(): name for name in available_timezones()}


def check_zone(zone: str) -> None:
    """Raises WrongTime if it is none, with the names that may be meant."""
    if zone in _zones().values():
        return
    close = [_zones()[each] for each in get_close_matches(zone[:80].casefold(), _zones(), n=3)]
    hint = f"perhaps {' or '.join(f'`{each}`' for each in close)} is meant" if close else "`Europe/Berlin`, say"
    raise WrongTime(f"it is no IANA time zone: {hint}")


def firings(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The times of a cron expression after a moment, in UTC."""
    latest = after
    for time in CronSim(cron, after.astimezone(ZoneInfo(zone))):
        # Several times that are skipped become one; and at a time that comes twice the first may be over.
        if (moment := time.astimezone(UTC)) > latest:
            yield moment
            latest = moment


def upcoming(cron: str | None, zone: str, after: datetime, count: int) -> list[datetime]:
    return list(islice(firings(cron, zone, after), count)) if cron else []


def due(cron: str, zone: str, first: datetime, now: datetime, wanted: int) -> list[datetime]:
    """Of the times from `first`, which is one, until now: the last ones, up to `wanted`."""
    window = timedelta(hours=1)
    while True:
        # Not all from the first: in a year there are half a million minutes.
        begin = max(first, now - window)
        found = list(takewhile(lambda time: time <= now, firings(cron, zone, begin - timedelta(seconds=1))))
        if begin == first:
            return found[-wanted:] or [first]  # what was one may be none: rules of time zones change
        if len(found) >= wanted:
            return found[-wanted:]
        window *= 2


def moment(time: datetime, zone: str) -> datetime:
    """A time in UTC; without an offset it is by the clock of the zone. Raises WrongTime if that clock skips it."""
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    told = time.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    if told.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != time.replace(fold=0):
        raise WrongTime(f"{time:%Y-%m-%d %H:%M} does not exist in {zone}: the clock is put forward over it")
    return told
