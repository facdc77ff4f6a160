"""One started command: its process group, what it says and tells, and its end."""

from __future__ import annotations

import array
import asyncio
import json
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from backend.process.failure import WHERE, Failure
from backend.process.guard import Guard, signal_group
from backend.process.launch import Job, Launcher
from backend.process.output import whole_lines
from backend.process.signals import SUCCEEDED
from backend.process.sockets import TURN, bind_privately, forget_address

# Seconds until a child that was asked to end is killed. Longer than what our own processes grant themselves.
KILL_AFTER = 10.0
# Seconds for the last lines to arrive once the command has ended (a process that left the group may hold the pipe).
LAST_LINES = 1.0
# The exit status that sh has for a command it cannot start.
CANNOT_START = 126
CREDENTIALS = struct.Struct("3i")


class Parent(Protocol):
    """Who hears of a child."""

    def hear_lines(self, lines: bytes) -> None:
        """In a thread: what it says, in whole lines."""

    def hear_ready(self, child: Child) -> None: ...

    def hear_modules(self, modules: Sequence[str]) -> None:
        """It had to import these from outside the project."""


class Child:
    """A command in a session and process group of its own. Belongs to one event loop."""

    def __init__(self, name: str, launcher: Launcher, guard: Guard, parent: Parent) -> None:
        self._name = name
        self.ready = asyncio.Event()
        self.exited = asyncio.Event()
        self.waiting = asyncio.Event()
        self.status: int | None = None
        self.failure: Failure | None = None
        self._failed = asyncio.Event()
        self.links: dict[str, str] = {}
        # The project's files that it has read; None as long as it does not tell.
        self.files: set[str] | None = None
        # What it has given us to hold for its successor.
        self.kept: dict[str, int] = {}
        self.pid = 0
        self._launcher = launcher
        self._guard = guard
        self._parent = parent
        self._loop = asyncio.get_running_loop()
        self._drained = asyncio.Event()
        self._turn: int | None = None
        self._stopping = False

    async def start(
        self,
        command: str,
        argv: Sequence[str] | None,
        env: Mapping[str, str],
        cwd: str | None,
        predecessor: Child | None,
    ) -> None:
        """Start `command`. A predecessor's sockets are handed over; one still at work is waited for."""
        self._inbox = _Inbox()
        self._loop.add_reader(self._inbox.socket, self._read_news)
        handed = dict(predecessor.kept) if predecessor else {}
        theirs = None
        if predecessor and not predecessor.exited.is_set():
            theirs, self._turn = os.pipe()
            handed[TURN] = theirs
        output, says = os.pipe()
        environment = {**env, "NOTIFY_SOCKET": self._inbox.address}
        try:
            threading.Thread(target=self._read_lines, args=[output], daemon=True).start()
            launched = await self._launcher.start(
                Job(self._name, command, argv, environment, cwd or os.getcwd(), says, handed)
            )
        except (OSError, RuntimeError) as error:  # the machine has no room for another process, or thread
            self.failure = Failure(f"cannot be started: {error}.")
            self.status = CANNOT_START
            self.exited.set()
            return
        finally:
            os.close(says)
            if theirs is not None:
                os.close(theirs)
        self.pid = launched.pid
        self._guard.add(self.pid)
        self._watching = asyncio.create_task(self._watch(launched.wait()))

    def give_turn(self) -> None:
        """Tell a waiting child that its predecessor is gone."""
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None

    async def tell_where(self, seconds: float) -> None:
        """Let it say in `failure` at which line it hangs, if it can within that time."""
        if self.pid and not self.exited.is_set():
            os.kill(self.pid, WHERE)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._failed.wait()

    async def stop(self) -> None:
        """SIGTERM to all in the group, SIGKILL to those still there after KILL_AFTER seconds, and let go of it."""
        await self._end(signal.SIGTERM)
        self._let_go()

    async def step_aside(self) -> None:
        """As `stop`, for a successor that waits; what it has given us to hold is held on."""
        await self._end(SUCCEEDED)

    async def _end(self, number: int) -> None:
        if self.exited.is_set():
            return
        self._stopping = True
        signal_group(self.pid, number)
        signal_group(self.pid, signal.SIGCONT)  # one that was stopped could not obey
        try:
            async with asyncio.timeout(KILL_AFTER):
                await self._gone()
        except TimeoutError:
            signal_group(self.pid, signal.SIGKILL)
            await self.exited.wait()
        self._guard.discard(self.pid)

    def close_sockets(self) -> None:
        """Give up the listening sockets: from now on connections are refused instead of waiting."""
        for name, descriptor in list(self.kept.items()):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.close(self.kept.pop(name))

    async def _gone(self) -> None:
        await self.exited.wait()
        while signal_group(self.pid, 0):  # noqa: ASYNC110 - a group has no event
            await asyncio.sleep(0.02)

    def _let_go(self) -> None:
        if self._inbox.socket.fileno() < 0:
            return
        self._loop.remove_reader(self._inbox.socket)
        self._inbox.close()
        while self.kept:
            os.close(self.kept.popitem()[1])
        self.give_turn()

    async def _watch(self, end: Awaitable[int]) -> None:
        status = await end
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_LINES):
                await self._drained.wait()
        self.status = status
        if not self._stopping:  # it ended by itself: what it has left behind ends with it
            signal_group(self.pid, signal.SIGKILL)
            self._guard.discard(self.pid)
        self.exited.set()

    def _read_lines(self, output: int) -> None:
        """In a thread: read what the command says until all that could say something have ended."""
        with os.fdopen(output, "rb") as pipe:
            for lines in whole_lines(pipe):
                self._parent.hear_lines(lines)
        with suppress(RuntimeError):  # the loop was closed by an error elsewhere
            self._loop.call_soon_threadsafe(self._drained.set)

    def _read_news(self) -> None:
        news, descriptors = self._inbox.receive()
        for descriptor in descriptors:
            self._keep(news.get("FDNAME", "unknown"), descriptor)
        if "X_FILES" in news:
            self._note_files(json.loads(news["X_FILES"]))
        if "X_MODULES" in news:
            self._parent.hear_modules(json.loads(news["X_MODULES"]))
        if "X_ERROR" in news:
            self.failure = Failure(**json.loads(news["X_ERROR"]))
            self._failed.set()
        if "X_WAITING" in news:
            self.waiting.set()
        if news.get("READY") == "1":
            self.links = json.loads(news.get("X_LINKS", "{}"))
            self.ready.set()
            self._parent.hear_ready(self)

    def _keep(self, name: str, descriptor: int) -> None:
        if name in self.kept:
            os.close(self.kept[name])
        self.kept[name] = descriptor

    def _note_files(self, names: Sequence[str]) -> None:
        files = self.files = self.files or set()
        files.update(name for name in names if not name.startswith("-"))
        files.difference_update(name[1:] for name in names if name.startswith("-"))


class _Inbox:
    """The receiving end of one child's NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0))
        self.socket.setblocking(False)
        if hasattr(socket, "SO_PASSCRED"):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.address = bind_privately(self.socket, "notify")

    def receive(self) -> tuple[dict[str, str], list[int]]:
        """One message: its variables, and the descriptors that came with it."""
        space = socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(array.array("i").itemsize)
        message, ancillary, _, _ = self.socket.recvmsg(262_144, space)
        descriptors = array.array("i")
        sender = os.geteuid()
        for _, kind, data in ancillary:
            if kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            elif kind == socket.SCM_CREDENTIALS:
                sender = CREDENTIALS.unpack(data)[1]
        if sender not in (0, os.geteuid()):
            for descriptor in descriptors:
                os.close(descriptor)
            return {}, []
        pairs = (line.partition("=") for line in message.decode(errors="replace").splitlines())
        return {name: value for name, _, value in pairs}, list(descriptors)

    def close(self) -> None:
        self.socket.close()
        forget_address(self.address)
