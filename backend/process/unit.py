"""One line of the Procfile through all its lives: restarts after crashes, exchanges after saves."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from honcho.process import Process

from backend.process.child import Child
from backend.process.failure import Failure
from backend.process.guard import Guard
from backend.process.launch import Launcher
from backend.process.output import Events, notice
from backend.process.procfile import PLAIN_COMMAND, short_name
from backend.process.roster import UnitState, UnitStatus
from backend.process.tracking import RELOAD_ROOT

# Seconds before a crashed process is started again: doubling from the first to the second.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# Seconds a process has to serve before its next crash counts as the first again.
SOUND_AFTER = 10.0
# Crashes in a row after which a developer is waited for.
CRASH_LOOP = 5
# Seconds that new code has to get ready while the old goes on.
READY_WITHIN = 15.0
# Seconds in which a process that is not ready can say where it stands.
PATIENCE = 0.5


class Crew(Protocol):
    """What a unit needs of those around it."""

    events: Events
    guard: Guard
    launcher: Launcher
    stopping: asyncio.Event

    def note_ready(self, unit: Unit) -> None: ...

    def note_failure(self, unit: Unit, failure: Failure) -> None: ...

    def note_change(self) -> None: ...


@dataclass(frozen=True)
class Exchange:
    """How an exchange went: `failure` is None for a good end, and for one that something newer has overtaken."""

    unit: Unit
    done: bool
    failure: Failure | None = None


class Unit(Process):
    """honcho's Process, whose command may be started many times between its one start and its one stop message."""

    # Whether the command says READY=1 (an AppProcess does). Others count as ready once started.
    notifies = False
    # What follows `python` in a command that may be forked.
    argv: Sequence[str] | None = None
    # Set in development: the folder whose saves exchange the process.
    root: str | None = None
    # The one that serves, or the last one that did.
    current: Child | None = None
    was_ready = False
    # Nothing is tried before the next save.
    broken = False
    reloads = 0
    crashes = 0
    last_error: Failure | None = None
    failed_at: float | None = None
    # When the next start after a crash is due, in seconds since 1970.
    next_try: float | None = None
    # When what `state` tells of this pid began.
    since = 0.0
    _told: tuple[UnitState, int] | None = None
    _ended = False

    async def live(self, crew: Crew) -> None:
        """From the first start to the last end, which comes when all stop or a start is hopeless."""
        self._crew = crew
        self._events = crew.events
        self.links: dict[str, str] = {}
        self._removed = asyncio.Event()
        self._renewed = asyncio.Event()
        self._changing = asyncio.Lock()
        self._children: set[Child] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        status = None
        self.current = current = await self._spawn()
        self._send_message({"pid": current.pid}, type="start")
        self._tell()
        try:
            status = await self._keep_alive(current)
        finally:
            async with self._changing:  # what an exchange starts is known before it is ended
                await asyncio.gather(*(child.stop() for child in self._children), *self._retiring)
            self._ended = True
            self._tell()
            if not self._removed.is_set():
                self._send_message({"returncode": self.current.status or 0 if status is None else status}, type="stop")

    def concerned(self, saved: set[str], code: set[str]) -> bool:
        """Whether a save of these files calls for a new process here; `code` are those that anybody might read."""
        if self.current is None:
            return False
        files = self.current.files
        if self.broken or (files is None and self.notifies):
            return bool(code)  # whatever was wrong may be mended
        if files is None:
            return "python" in self.cmd and any(name.endswith(".py") for name in code)
        folders = {f"{os.path.dirname(name)}/".lstrip("/") for name in code}
        gone = tuple(f"{name}/" for name in saved if "." not in os.path.basename(name))  # a folder may be
        return bool((saved | folders) & files) or any(name.startswith(gone) for name in files if gone)

    async def exchange(self, overtaken: asyncio.Event) -> Exchange:
        """Start new code beside the old; the old goes when the new is ready, and stays if it never is."""
        async with self._changing:
            old = self.current
            assert old
            if self._crew.stopping.is_set() or self._removed.is_set():
                return Exchange(self, done=False)
            if not self.notifies:
                await old.stop()
            new = await self._spawn(old)
            failure = await self._until_ready(new, old, overtaken)
            if new.ready.is_set() and not failure:
                self.reloads += 1
                self.broken = False
                self.crashes = 0
                self.last_error = self.failed_at = None
                self._succeed(new)
                return Exchange(self, done=True)
            self._retire(new)
            if failure:
                self.broken = self.root is not None  # where no save is waited for, the next start may well succeed
                self._fail(failure)
                self._tell()
            return Exchange(self, done=False, failure=failure)

    @property
    def files(self) -> set[str] | None:
        """Which files of the project it has read, as far as it has told."""
        return self.current.files if self.current else None

    @property
    def state(self) -> UnitState:
        if self._ended:
            return UnitState.STOPPED
        if self.current is None or not self.current.exited.is_set():
            return UnitState.RUNNING if self.serves else UnitState.STARTING
        if self.next_try:
            return UnitState.RESTARTING
        return UnitState.WAITING if self.broken else UnitState.STARTING

    @property
    def status(self) -> UnitStatus:
        return UnitStatus(
            name=self.short_name,
            state=self.state,
            pid=self.current.pid if self.current else 0,
            since=self.since,
            address=self.links.get("address") if self.current else None,
            reloads=self.reloads,
            crashes=self.crashes,
            next_try=self.next_try,
            failure=self.last_error,
            failed_at=self.failed_at,
            held=self.broken,
        )

    @property
    def serves(self) -> bool:
        return self.current is not None and self.current.ready.is_set() and not self.current.exited.is_set()

    def remove(self) -> None:
        """End it for good, and have nobody told: its line is gone from the Procfile."""
        self._removed.set()

    async def _until_ready(self, new: Child, old: Child, overtaken: asyncio.Event) -> Failure | None:
        """None when it is ready, or something else has happened that makes it pointless."""
        deadline = time.monotonic() + READY_WITHIN
        while not new.ready.is_set():
            patience = deadline - time.monotonic()
            if not await first(new.ready, new.exited, new.waiting, overtaken, self._crew.stopping, timeout=patience):
                await new.tell_where(PATIENCE)
                return new.failure or Failure(f"the new code is not ready after {READY_WITHIN:g} s.")
            if overtaken.is_set() or self._crew.stopping.is_set():
                return None
            if new.exited.is_set():
                return new.failure or Failure(f"the new code ended with status {new.status} instead of serving.")
            if new.waiting.is_set():
                await old.step_aside()
                new.waiting.clear()
                new.give_turn()
                deadline = time.monotonic() + READY_WITHIN
        return None

    async def _keep_alive(self, current: Child) -> int | None:
        while True:
            await first(current.exited, self._crew.stopping, self._removed)
            if self._crew.stopping.is_set() or self._removed.is_set():
                return None
            async with self._changing:  # an exchange may be under way, and be the answer
                if self._crew.stopping.is_set():
                    return None
                if self.current is current and self._gave_up(current):
                    if current.failure:
                        self._crew.note_failure(self, current.failure)
                    if not self._may_be_mended(current):
                        return current.status or 1
            if self.current is current:
                await self._revive(current)
            current = self.current or current

    def _gave_up(self, current: Child) -> bool:
        """By itself (no signal), before any was ever ready."""
        by_itself = current.status is not None and 0 <= current.status < 128
        return self.notifies and not self.was_ready and not self.broken and by_itself

    def _may_be_mended(self, current: Child) -> bool:
        """It failed for a fault in code that is watched."""
        return self.root is not None and current.failure is not None and current.failure.file is not None

    async def _revive(self, current: Child) -> None:
        self.crashes += 1
        self.broken = self.broken or (not self.was_ready and current.failure is not None)
        self._renewed.clear()
        self._fail(current.failure or Failure(f"ended with status {current.status}"))
        if self.broken or (self.root and self.crashes >= CRASH_LOOP):
            self._give_up(current)
            await first(self._renewed, self._crew.stopping, self._removed)
            return
        delay = min(FIRST_DELAY * 2 ** (self.crashes - 1), LONGEST_DELAY)
        self.next_try = time.time() + delay
        self._tell()
        self._say(f"{self.name} ended with status {current.status}, starts again in {delay:g} s")
        if not await first(self._renewed, self._crew.stopping, self._removed, timeout=delay):
            async with self._changing:
                if self.current is current:
                    self._succeed(await self._spawn(current))
        self.next_try = None

    def _give_up(self, current: Child) -> None:
        current.close_sockets()  # connections are refused from now on, instead of waiting
        looping, self.broken = not self.broken, True
        self._tell()
        if looping:
            self._say(
                f"{self.short_name} has ended {self.crashes} times in a row, the last time with status"
                f" {current.status}: it waits for the next save, or `invoke restart {self.short_name}`"
            )
        else:
            self._say(f"{self.short_name} waits for the next save")

    @property
    def short_name(self) -> str:
        """As people call it."""
        return short_name(self.name)

    @property
    def kind(self) -> str:
        """What `executor.1` and `executor.2` have in common."""
        return self.name.partition(".")[0]

    def _fail(self, failure: Failure) -> None:
        self.last_error = failure
        self.failed_at = time.time()

    def _tell(self) -> None:
        """Something that can be seen from outside has changed."""
        now = (self.state, self.current.pid if self.current else 0)
        if now != self._told:
            self._told = now
            self.since = time.time()
        self._crew.note_change()

    def _succeed(self, new: Child) -> None:
        old, self.current = self.current, new
        self.next_try = None
        self._renewed.set()
        self._tell()
        if old:
            self._retire(old)

    async def _spawn(self, predecessor: Child | None = None) -> Child:
        child = Child(self.kind, self._crew.launcher, self._crew.guard, self)
        self._children.add(child)
        environment = self._environment(again=predecessor is not None)
        await child.start(self._command(), self.argv, environment, self.cwd, predecessor)
        if not self.notifies and not child.exited.is_set():
            child.ready.set()
            asyncio.get_running_loop().call_soon(self.hear_ready, child)
        return child

    def _command(self) -> str:
        """The line for sh; without work for the shell, sh makes room for the command."""
        plain = (
            PLAIN_COMMAND.fullmatch(self.cmd)
            and shutil.which(self.cmd.split()[0], path=self.env.get("PATH")) is not None
        )
        return f"exec {self.cmd}" if plain else self.cmd

    def _environment(self, *, again: bool) -> dict[str, str]:
        if self.root is None:
            return self.env
        # CPython takes a .pyc for fresh when the source has the same size and second; so exchanged code writes none.
        fresh = {"PYTHONDONTWRITEBYTECODE": "1"} if again else {}
        return {**self.env, RELOAD_ROOT: self.root, **fresh}

    def _retire(self, child: Child) -> None:
        """End `child` while others go on."""
        self._children.discard(child)
        task = asyncio.ensure_future(child.stop())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def hear_lines(self, lines: bytes) -> None:
        self._send_message(lines)

    def hear_modules(self, modules: Sequence[str]) -> None:
        self._crew.launcher.learn(self.kind, modules)

    def hear_ready(self, child: Child) -> None:
        self.was_ready = True
        self.links = child.links
        asyncio.get_running_loop().call_later(SOUND_AFTER, self._note_sound, child)
        self._crew.note_ready(self)
        self._tell()

    def _note_sound(self, child: Child) -> None:
        if self.current is child and not child.exited.is_set():
            self.crashes = 0

    def _say(self, text: str) -> None:
        self._crew.events.put(notice(text))


async def first(*events: asyncio.Event, timeout: float | None = None) -> bool:
    """Wait until one of the events is set; False when none was within `timeout` seconds."""
    if any(event.is_set() for event in events):
        return True
    waits: Iterable[asyncio.Task[bool]] = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)
