"""Runs several commands together: honcho's Manager, with restarts, readiness, reload and a sure end."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

from honcho.manager import Manager

from backend.process.guard import Guard
from backend.process.output import Events, JsonPrinter, PiecePrinter, in_colour, notice
from backend.process.reload import watch
from backend.process.sockets import notify
from backend.process.unit import Unit

# What every process can tell about where it is reached: its name -> label -> address.
Links = dict[str, dict[str, str]]


class Supervisor(Manager):
    """honcho's Manager with its `loop()` unchanged: it prints what happens in a thread, where the processes are led.

    The exit status is in `returncode` after `loop()`. `welcome` makes the text that is shown once all are ready.
    """

    def __init__(self, welcome: Callable[[Links], str], *, as_json: bool) -> None:
        output = sys.stdout
        super().__init__(JsonPrinter(output) if as_json else PiecePrinter(output, colour=in_colour(output)))
        self.events = Events()
        self._process_ctor = Unit
        self._welcome = welcome
        self._reload_root: Path | None = None
        self._ignored: Collection[Path] = ()
        self._crew: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._watching = threading.Event()  # set: no longer
        self._welcomed = False

    def reload(self, root: Path, ignored: Collection[Path]) -> None:
        """Exchange processes whose code below `root` was saved. Call it after `add_process`."""
        self._reload_root = root
        self._ignored = ignored
        for unit in self._units():
            unit.root = root

    def run(self) -> int:
        """Run until all have ended, and return the exit status. Nothing that was started is left."""
        self._take_signals()
        self._guard = Guard()
        try:
            self.loop()
        except BrokenPipeError:  # nobody reads what we print
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.returncode = 128 + signal.SIGPIPE
        finally:
            self._end_all()
        return self.returncode or 0

    def _take_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._terminating and number == signal.SIGINT:
            self._guard.kill()
        elif not self._terminating:
            self._system_print(f"{signal.Signals(number).name} received, stopping; Ctrl-C again ends all at once\n")
            self.returncode = 128 + number
            self.terminate()

    def _start(self) -> None:
        self._take_signals()  # back from honcho, which knows two of them and no second Ctrl-C
        self._thread = threading.Thread(target=self._lead, name="crew")
        self._thread.start()

    def _killall(self, force: bool = False) -> None:
        if force:  # honcho's clock has run out; each Child has a clock of its own
            return
        if self._crew:
            with suppress(RuntimeError):  # the thread has ended by itself
                self._crew.call_soon_threadsafe(self._stopping.set)

    def _system_print(self, data: str) -> None:
        self.events.put(notice(data))

    def _lead(self) -> None:
        """In a thread that lives as long as the processes, whose parent-death signal hangs on it."""
        error = None
        try:
            asyncio.run(self._live())
        except BaseException as raised:
            error = raised
        self.events.close(error)

    async def _live(self) -> None:
        self._crew = asyncio.get_running_loop()
        if self._terminating:  # a signal was faster
            self._stopping.set()
        async with asyncio.TaskGroup() as lives:
            for unit in self._units():
                lives.create_task(unit.live(self.events, self._guard, self._stopping, self._note_ready))
            if self._reload_root:
                await asyncio.sleep(0)  # all are started
                self._watch_files(self._reload_root)
        self._watching.set()

    def _watch_files(self, root: Path) -> None:
        assert self._crew
        report = partial(self._crew.call_soon_threadsafe, self._note_saved)
        threading.Thread(target=watch, args=(root, self._ignored, self._watching, report), daemon=True).start()

    def _note_saved(self, saved: set[str]) -> None:
        known = {name for unit in self._units() for name in unit.current.files or ()}
        for unit in self._units():
            if ".env" in saved or unit.concerned(saved, saved - known):
                unit.changed.set()

    def _note_ready(self) -> None:
        units = self._units()
        if not self._welcomed and all(unit.was_ready for unit in units):
            self._welcomed = True
            self._system_print(self._welcome({unit.name.removesuffix(".1"): unit.links for unit in units}))
            notify(READY="1")

    def _units(self) -> list[Unit]:
        return [process["obj"] for process in self._processes.values()]

    def _end_all(self) -> None:
        """After an error in the loop the processes are still there; what they say now is lost."""
        self._killall()
        with suppress(queue.Empty):
            while self._thread.is_alive():
                self.events.get(0)
        self._thread.join()
        self._guard.close()
