"""What one Procfile line runs: a process with a name, four states that can be seen from outside, and one way to end."""

from __future__ import annotations

import asyncio
import gc
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import ClassVar

# New objects between two looks for garbage. At Python's own 700 an executor spends a third of its time looking.
GARBAGE_EVERY = 20_000


class State(StrEnum):
    """The states a process goes through, in this order."""

    IDLE = "idle"
    INITIALIZING = "initializing"
    RUNNING = "running"
    STOPPED = "stopped"


class Stopped(BaseException):
    """Raised inside `run()` by the first SIGINT or SIGTERM; no `except Exception` holds it up."""


def _tell_nobody(links: dict[str, str]) -> None:
    del links


class AppProcess(ABC):
    """Subclasses give a `name` and write `run()`, which calls `ready()` once it serves."""

    name: ClassVar[str]
    # Whether a new one may begin while its predecessor still works. If not, it waits for its turn (see lifecycle.py).
    overlap: ClassVar[bool] = True
    # Set when it is told to stop because its successor waits: what the two share may go on.
    has_successor = False
    state: State = State.IDLE
    # Where `ready()` is told to; lifecycle.py sets it.
    on_ready: Callable[[dict[str, str]], None] = staticmethod(_tell_nobody)

    @abstractmethod
    def run(self) -> None:
        """Work until told to stop: the first SIGINT or SIGTERM calls `stop()` in the main thread."""

    def cleanup(self) -> None:  # noqa: B027 - not every process has something to let go of
        """Let go of everything. Called exactly once, however `run()` ended."""

    def stop(self) -> None:
        """Make `run()` end."""
        raise Stopped

    def ready(self, **links: str) -> None:
        """Say that it serves from now on. `links` are shown to people: `address` is the one others reach it at."""
        if self.state is State.RUNNING:
            return
        self.state = State.RUNNING
        gc.freeze()  # what is loaded by now stays: it is not looked at again
        gc.set_threshold(GARBAGE_EVERY)
        self.on_ready(links)


class AsyncAppProcess(AppProcess):
    """A process that lives in one event loop; subclasses write `serve()`."""

    _loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def serve(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set. Told to stop before it called `ready()`, it is cancelled instead."""

    def run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        if self._loop is None:
            raise Stopped
        with suppress(RuntimeError):  # the loop is closed: run() is ending already
            self._loop.call_soon_threadsafe(self._ask_to_stop)

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._serving = asyncio.ensure_future(self.serve(self._stopping))
        self._loop = asyncio.get_running_loop()
        try:
            await self._serving
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise

    def _ask_to_stop(self) -> None:
        self._stopping.set()
        if self.state is not State.RUNNING:
            self._serving.cancel()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
