"""SIGINT, SIGTERM and SIGHUP to one process: the first asks it to end, a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from backend.process.process import AppProcess

# What SIGTERM is, for one whose successor waits to take over what it keeps.
SUCCEEDED = signal.SIGUSR2
# Seconds a process has to end after the first signal. Shorter than what supervisors wait before they kill.
GRACE = 8.0


class StopSignals:
    """`received` is the first signal; `deliver` says whether `stop()` may be called now."""

    def __init__(self, process: AppProcess) -> None:
        self.received: int | None = None
        self.deliver = False
        self._process = process

    def install(self) -> None:
        """Take over the signals, for the rest of this process. SIGHUP stays ignored where it is (nohup)."""
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(SUCCEEDED, self._handle)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    @property
    def exit_status(self) -> int:
        return 128 + self.received if self.received else 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == SUCCEEDED:
            self._process.has_successor = True
            number = signal.SIGTERM
        if self.received is None:
            self.received = number
            self._end_after_grace()
            if self.deliver:
                self._process.stop()
        elif number == signal.SIGINT:
            os._exit(128 + number)

    def _end_after_grace(self) -> None:
        timer = threading.Timer(GRACE, os._exit, [self.exit_status])
        timer.daemon = True
        timer.start()
