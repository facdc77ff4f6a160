"""One line of the Procfile through all its lives: restarts after crashes, exchanges after saves."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from honcho.process import Process

from backend.process.child import Child
from backend.process.guard import Guard
from backend.process.lifecycle import RELOAD_ROOT
from backend.process.output import Events, notice

# Seconds before a crashed process is started again: doubling from the first to the second.
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
# Seconds a process has to serve before its next crash counts as the first again.
SOUND_AFTER = 10.0

# A command without anything for the shell to do.
PLAIN_COMMAND = re.compile(r"[\w./@:+, -]+")


class Unit(Process):
    """honcho's Process, whose command may be started many times between its one start and its one stop message."""

    # Whether the command says READY=1 (an AppProcess does). Others count as ready once started.
    notifies = False
    # Set in development: the folder whose saves exchange the process.
    root: Path | None = None

    async def live(self, events: Events, guard: Guard, stopping: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """From the first start to the last end, which comes when `stopping` is set or a start is hopeless."""
        self._events = events
        self._guard = guard
        self._stopping = stopping
        self._on_ready = on_ready
        self.changed = asyncio.Event()
        self.was_ready = False
        self.links: dict[str, str] = {}
        self._children: set[Child] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._delay = FIRST_DELAY
        self._broken = False
        status = None
        self.current = self._spawn()
        self._send_message({"pid": self.current.pid}, type="start")
        try:
            status = await self._keep_alive()
        finally:
            await asyncio.gather(*(child.stop() for child in self._children), *self._retiring)
            self._send_message({"returncode": self.current.status or 0 if status is None else status}, type="stop")

    def concerned(self, changed: set[str], strays: set[str]) -> bool:
        """Whether a save of `changed` calls for new code here; `strays` of them were loaded by nobody."""
        files = self.current.files
        if files is None:
            return "python" in self.cmd and any(name.endswith(".py") for name in changed)
        folders = {os.path.dirname(name) for name in files}
        return bool(changed & files) or any(os.path.dirname(name) in folders for name in strays)

    async def _keep_alive(self) -> int | None:
        while True:
            await first(self.current.exited, self.changed, self._stopping)
            if self._stopping.is_set():
                return None
            if self.changed.is_set():
                self.changed.clear()
                await self._exchange()
            elif self._is_hopeless():
                return self.current.status or 1
            else:
                await self._revive()

    def _is_hopeless(self) -> bool:
        """It gave up by itself (no signal) before it was ever ready: the next try would not do better."""
        status = self.current.status
        return self.notifies and not self.was_ready and not self._broken and status is not None and 0 <= status < 128

    async def _revive(self) -> None:
        if self._broken:
            self.current.close_sockets()
            self._say(f"{self.name} waits for the next save")
            await first(self.changed, self._stopping)
            return
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY)
        self._say(f"{self.name} ended with status {self.current.status}, starts again in {delay:g} s")
        if not await first(self.changed, self._stopping, timeout=delay):
            self._succeed(self._spawn(self.current))

    async def _exchange(self) -> None:
        """Start new code beside the old; the old goes when the new is ready, and stays if it never is."""
        if not self.notifies:
            await self.current.stop()
        new = self._spawn(self.current)
        while not new.ready.is_set():
            await first(new.ready, new.exited, new.waiting, self.changed, self._stopping)
            if self.changed.is_set() or self._stopping.is_set():
                self._retire(new)
                return
            if new.exited.is_set():
                self._keep_the_old(new)
                return
            if new.waiting.is_set():
                await self.current.stop()
                new.waiting.clear()
                new.give_turn()
        self._broken = False
        self._succeed(new)

    def _keep_the_old(self, new: Child) -> None:
        self._broken = True
        if not self.current.exited.is_set():
            self._say(f"{self.name}: the new code does not start, the last good one goes on; waiting for the next save")
        self._retire(new)

    def _succeed(self, new: Child) -> None:
        old, self.current = self.current, new
        self._retire(old)

    def _spawn(self, predecessor: Child | None = None) -> Child:
        child = Child(self._guard, self._send_message, self._note_ready)
        child.start(self._command(), self._environment(again=predecessor is not None), self.cwd, predecessor)
        self._children.add(child)
        if not self.notifies:
            child.ready.set()
            asyncio.get_running_loop().call_soon(self._note_ready, child)
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
        return {**self.env, RELOAD_ROOT: str(self.root), **fresh}

    def _retire(self, child: Child) -> None:
        """End `child` while others go on."""
        self._children.discard(child)
        task = asyncio.ensure_future(child.stop())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _note_ready(self, child: Child) -> None:
        self.was_ready = True
        self.links = child.links
        asyncio.get_running_loop().call_later(SOUND_AFTER, self._note_sound)
        self._on_ready()

    def _note_sound(self) -> None:
        if not self.current.exited.is_set():
            self._delay = FIRST_DELAY

    def _say(self, text: str) -> None:
        self._events.put(notice(text))


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
