"""Single keys in the terminal of a supervisor: status, restart, one process's lines, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from backend.process import control, table
from backend.process.control import BadRequest
from backend.process.output import Lines
from backend.process.unit import Unit

HINT = "Keys: s status, r restart all, 1-9 restart one, l lines of one, q stop, h help"
# Seconds between two looks whether a terminal that is used by others is ours again: nothing tells.
LOOK = 1.0


class Crew(control.Crew, Protocol):
    printer: Lines
    folder: Path | None


class Keys:
    """Reads the terminal `descriptor`, but only in the foreground. `open` and `close` belong to the crew's loop."""

    def __init__(self, crew: Crew, descriptor: int) -> None:
        self._crew = crew
        self._terminal = descriptor
        # How the terminal was set before.
        self._before: list[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._choosing = False

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._look()

    def close(self) -> None:
        if self._loop:
            self._leave(self._loop)
        self._loop = None
        self.restore()

    def take_signals(self) -> None:
        """In the main thread: whatever stops or ends this process leaves the terminal as it was."""
        signal.signal(signal.SIGTSTP, self._on_stop)
        signal.signal(signal.SIGQUIT, self._on_stop)
        signal.signal(signal.SIGCONT, self._on_continue)

    def restore(self) -> None:
        """Set the terminal as it was. In the background it is not ours to set."""
        if self._before is not None and self._in_foreground():
            self._set(lambda: termios.tcsetattr(self._terminal, termios.TCSANOW, self._before or []))
            self._before = None

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.restore()
        if number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._loop:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Begin to read if the terminal is ours, else look again later."""
        if self._loop is None:
            return
        self._leave(self._loop)
        if self._in_foreground():
            if self._before is None:
                with suppress(termios.error):
                    self._before = termios.tcgetattr(self._terminal)
            self._set(lambda: tty.setcbreak(self._terminal, termios.TCSANOW))
            self._loop.add_reader(self._terminal, self._read)
        else:
            self._looking = self._loop.call_later(LOOK, self._look)

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._terminal)
        if self._looking:
            self._looking.cancel()

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._terminal) == os.getpgrp()
        except OSError:  # the terminal is gone
            return False

    def _set(self, change: Callable[[], object]) -> None:
        """Were we in the background by now, SIGTTOU would stop us."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        with suppress(termios.error):
            change()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _read(self) -> None:
        if not self._in_foreground():
            return self._look()
        keys = b""
        with suppress(OSError):
            keys = os.read(self._terminal, 100)
        if not keys and self._loop:  # the terminal is gone
            return self._leave(self._loop)
        if keys.startswith(b"\033"):  # an arrow, or another key that is no letter
            return
        for key in keys.decode(errors="replace"):
            self._obey(key)

    def _obey(self, key: str) -> None:
        choosing, self._choosing = self._choosing, False
        if key in "123456789":
            self._number(int(key), choosing)
        elif action := self._actions().get(key):
            action()

    def _actions(self) -> dict[str, Callable[[], object]]:
        return {
            "s": self._show_status,
            "r": lambda: self._restart(self._crew.units()),
            "l": self._choose,
            "q": lambda: os.kill(os.getpid(), signal.SIGINT),
            "h": lambda: self._crew.say(f"{HINT}\n{self._numbered()}\nl again shows all lines; Ctrl-C stops, too."),
        }

    def _number(self, number: int, choosing: bool) -> None:
        units = self._crew.units()
        if number > len(units):
            self._crew.say(f"There is no process {number}: {self._numbered()}")
        elif choosing:
            self._crew.printer.only = units[number - 1].name
            self._crew.say(f"Only the lines of {units[number - 1].short_name} are shown; l shows all again.")
        else:
            self._restart([units[number - 1]])

    def _choose(self) -> None:
        if self._crew.printer.only is None:
            self._choosing = True
            self._crew.say(f"Whose lines? {self._numbered()}")
        else:
            self._crew.printer.only = None
            self._crew.say("The lines of all are shown.")

    def _numbered(self) -> str:
        return "  ".join(f"{number} {unit.short_name}" for number, unit in enumerate(self._crew.units()[:9], 1))

    def _show_status(self) -> None:
        if self._crew.folder:
            shown = table.lines(table.rows(self._crew.folder), colour=self._crew.printer.colour)
            self._crew.say("\n".join(shown))

    def _restart(self, units: list[Unit]) -> None:
        task = asyncio.ensure_future(self._try_restart(units))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try_restart(self, units: list[Unit]) -> None:
        try:
            await control.restart(self._crew, units)
        except BadRequest as error:
            self._crew.say(str(error))
