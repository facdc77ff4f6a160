"""What time it is by the clock of the database, which all executors share: their own may be wrong, and may jump."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """Goes on evenly from what the database told last; before that, from the time of this machine."""

    def __init__(self) -> None:
        self._set(datetime.now(UTC))

    def now(self) -> datetime:
        return self._at(time.monotonic())

    def told(self, now: datetime, asked: float) -> None:
        """Take what the database answered to a question of `asked`, by time.monotonic().

        Nothing is changed if this clock was at that time at some moment between the question and the answer: how long
        the answer took would else make the clock go back and forth.
        """
        if not self._at(asked) <= now <= self.now():
            self._set(now)

    def _set(self, now: datetime) -> None:
        self._ahead = now.timestamp() - time.monotonic()

    def _at(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment + self._ahead, UTC)


CLOCK = Clock()
