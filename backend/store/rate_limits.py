"""How much each key, or address, has asked for in the current minute, counted for all processes together.

A process takes places in advance, a hundredth of the limit at once, and gives them out without asking again: so the
limit is never passed, and a process that takes places in vain costs others no more than these.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from backend.store.connection import Queryable

WINDOW = 60  # seconds
# The part of the limit that is taken at once.
PART = 100
# Subjects that are kept in memory.
MOST = 10_000

TAKE = f"""
    INSERT INTO rate_limits AS counted (subject, began_at, used) VALUES ($1, now(), $2)
    ON CONFLICT (subject) DO UPDATE SET
        used = CASE WHEN {{over}} THEN $2 ELSE counted.used + $2 END,
        began_at = CASE WHEN {{over}} THEN now() ELSE counted.began_at END
    RETURNING used, extract(epoch FROM began_at + interval '{WINDOW} seconds' - now())::float8 AS seconds
""".format(over=f"counted.began_at <= now() - interval '{WINDOW} seconds'")


@dataclass(slots=True)
class Window:
    """What one subject may still do. `left` is without what other processes have taken meanwhile."""

    limit: int
    taken: int
    left: int
    ends: float

    def is_of(self, limit: int) -> bool:
        return self.limit == limit and time.monotonic() < self.ends

    @property
    def seconds(self) -> int:
        """Until it ends, rounded up."""
        return max(1, int(self.ends - time.monotonic() + 0.999))


class RateLimits:
    """Counts for one process; what it counts is every process's."""

    def __init__(self, database: Queryable) -> None:
        self._database = database
        self._windows: dict[str, Window] = {}

    async def take(self, subject: str, limit: int) -> tuple[bool, Window]:
        """Whether the subject may ask once more in this minute, and how it stands."""
        window = self._windows.get(subject)
        if window is None or not window.is_of(limit) or (window.left and not window.taken):
            window = await self._more(subject, limit)
        if not window.taken:
            return False, window
        window.taken -= 1
        return True, window

    async def _more(self, subject: str, limit: int) -> Window:
        wanted = max(1, limit // PART)
        row = await self._database.fetchrow(TAKE, subject, wanted)
        assert row is not None
        before = row["used"] - wanted
        granted = min(wanted, max(0, limit - before))
        if len(self._windows) >= MOST:
            del self._windows[next(iter(self._windows))]
        found = Window(limit, granted, max(0, limit - row["used"]), time.monotonic() + row["seconds"])
        if (beside := self._windows.get(subject)) and beside.is_of(limit):
            found.taken += beside.taken  # somebody else took places while we did
        self._windows[subject] = found
        return found


async def forget(connection: Queryable) -> None:
    """Delete what is over."""
    await connection.execute("DELETE FROM rate_limits WHERE began_at < now() - interval '1 hour'")
