"""Runs several commands together: honcho's Manager, with restarts, readiness, reload and a sure end."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from honcho.manager import Manager

from backend.process import roster
from backend.process.configuration import Configuration
from backend.process.control import Control
from backend.process.failure import Failure
from backend.process.guard import Guard
from backend.process.keys import HINT, Keys
from backend.process.launch import CAN_FORK, ForkServer, Launcher
from backend.process.logfiles import LogFiles
from backend.process.output import Events, JsonPrinter, Lines, PiecePrinter, in_colour, notice
from backend.process.procfile import Command
from backend.process.reload import Reload
from backend.process.sockets import notify
from backend.process.tail import Tail
from backend.process.unit import Unit

# What every process can tell about where it is reached: its name -> label -> address.
Links = dict[str, dict[str, str]]


class Supervisor(Manager):
    """honcho's Manager with its `loop()` unchanged: it prints what happens in a thread, where the processes are led.

    The exit status is in `returncode` after `loop()`. `welcome` makes the text that is shown once all are ready.
    `folder` is where it tells what runs, and keeps what makes the next start faster; `server` is a fork server that was
    started before; `fork=False` starts every process anew. `log_dir` is where what the processes say is stored; OSError
    when it cannot be written to. What is `private` in it is shown, and stored nowhere.
    """

    def __init__(
        self,
        welcome: Callable[[Links], str] = lambda links: "",
        *,
        as_json: bool = False,
        folder: Path | None = None,
        server: ForkServer | None = None,
        fork: bool = CAN_FORK,
        log_dir: Path | None = None,
        private: re.Pattern[bytes] | None = None,
    ) -> None:
        output = sys.stdout
        printer: Lines = JsonPrinter(output) if as_json else PiecePrinter(output, colour=in_colour(output))
        super().__init__(printer)
        self.printer: Lines = printer
        self.events = Events()
        self.folder = folder
        self.tail = Tail()
        self._log_files = LogFiles(log_dir, self.say) if log_dir else None
        printer.private = private
        printer.also = [self.tail.hear, *([self._log_files.hear] if self._log_files else [])]
        self.stopping = asyncio.Event()
        # Held by the thread that leads; its end ends what was started, so that is where both are made.
        self.guard: Guard
        self.launcher: Launcher
        self._process_ctor = Unit
        self._welcome = welcome
        self._memory = folder / "imports" if folder else None
        self._server = server
        self._fork = fork
        self._root: Path | None = None
        self._reload: Reload | None = None
        self._keys: Keys | None = None
        self._control: Control | None = None
        self._crew: asyncio.AbstractEventLoop | None = None
        self._lives: asyncio.TaskGroup
        self._welcomed = False

    def add(self, command: Command) -> Unit:
        """Have one more process run."""
        unit: Unit = self.add_process(command.name, command.line, env=command.env)
        unit.notifies = command.ours
        unit.argv = command.after_python()
        unit.root = str(self._root) if self._root else None
        return unit

    def reload(self, root: Path, ignored: Collection[Path], commands: Callable[[], Sequence[Command]]) -> None:
        """Exchange processes whose code below `root` was saved. Call it before `add`.

        `commands` reads anew what is to run, after a save of the Procfile or of .env; it may raise ProcfileError.
        """
        self._root = root
        self._reload = Reload(self, root, ignored, Configuration(self, root, commands).take_in)

    def take_keys(self) -> None:
        """Obey single keys, if this runs in a terminal that somebody sees. Call it before `run`."""
        if sys.stdin.isatty() and sys.stdout.isatty():
            self._keys = Keys(self, sys.stdin.fileno())

    def run(self) -> int:
        """Run until all have ended, and return the exit status. Nothing that was started is left."""
        self._take_signals()
        self.guard = Guard()
        self._signals, wake = socket.socketpair()
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            self.loop()
        except BrokenPipeError:  # nobody reads what we print
            self.returncode = 128 + signal.SIGPIPE
        finally:
            self._end_all()
            _let_go_of(sys.stdout)
            signal.set_wakeup_fd(-1)
            wake.close()
            self._signals.close()
            if self._keys:
                self._keys.restore()
            if self._log_files:
                self._log_files.close()
        return self.returncode or 0

    def add_now(self, command: Command) -> None:
        """Have one more process run while others do."""

        def begin() -> None:
            unit = self.add(command)
            self._in_crew(lambda: self._lives.create_task(unit.live(self)))

        self.events.call(begin)  # honcho's loop goes through its processes in its own thread

    def remove_now(self, unit: Unit) -> None:
        def forget() -> None:
            self._processes.pop(unit.name, None)
            self._in_crew(self.note_change)

        unit.remove()
        self.events.call(forget)

    def units(self) -> list[Unit]:
        return [process["obj"] for process in list(self._processes.values())]

    def say(self, text: str) -> None:
        self.events.put(notice(text))

    def note_ready(self, unit: Unit) -> None:
        del unit
        units = self.units()
        if not self._welcomed and all(unit.was_ready for unit in units):
            self._welcomed = True
            text = self._welcome({unit.short_name: unit.links for unit in units})
            self.say(f"{text.rstrip()}\n{HINT}\n\n" if self._keys else text)
            notify(READY="1")

    def note_change(self) -> None:
        """What can be seen from outside is another now."""
        if self.folder and self._control:
            roster.write(self.folder, roster.own(self._control.address, [unit.status for unit in self.units()]))

    def note_failure(self, unit: Unit, failure: Failure) -> None:
        """At the first start, where nothing older goes on."""
        if self._reload:
            self._reload.show_failures({unit: failure})

    def _take_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        if self._keys:
            self._keys.take_signals()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._terminating and number == signal.SIGINT:
            self.guard.kill()
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
        self._in_crew(self.stopping.set)

    def _in_crew(self, call: Callable[[], object]) -> None:
        if self._crew:
            with suppress(RuntimeError):  # the thread has ended by itself
                self._crew.call_soon_threadsafe(call)

    def _system_print(self, data: str) -> None:
        self.say(data)

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
            self.stopping.set()
        self.launcher = Launcher(
            self.guard, self._memory, self._server, fork=self._fork, ahead=self._reload is not None
        )
        self._crew.add_reader(self._signals, self._wake)
        watching = asyncio.create_task(self._reload.forever()) if self._reload else None
        self._control = Control(self)
        await self._control.open()
        if self._keys:
            self._keys.open()
        try:
            async with asyncio.TaskGroup() as self._lives:
                for unit in self.units():
                    self._lives.create_task(unit.live(self))
        finally:
            self.stopping.set()
            if self._keys:
                self._keys.close()
            if watching:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await self._control.close()
            if self.folder:
                roster.remove(self.folder)
            self.launcher.close()

    def _wake(self) -> None:
        """Have the main thread see to a signal: one that comes just before it waits for the queue would not wake it."""
        self._signals.recv(4096)
        self.events.call(lambda: None)

    def _end_all(self) -> None:
        """After an error in the loop the processes are still there; what they say now is lost."""
        self._killall()
        with suppress(queue.Empty):
            while self._thread.is_alive():
                self.events.get(0)
        self._thread.join()
        self.guard.close()


def _let_go_of(output: TextIO) -> None:
    """What could not be written (nobody reads, the disk is full) is no reason to complain at the end."""
    try:
        output.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
