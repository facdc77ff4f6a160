"""One started command: its process group, what it says and tells, and its end."""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from backend.process.guard import Guard, signal_group
from backend.process.orphans import die_with_parent
from backend.process.output import whole_lines
from backend.process.sockets import FIRST_FD, TURN

# Seconds until a child that was asked to end is killed. Longer than what our own processes grant themselves.
KILL_AFTER = 10.0
# Seconds for the last lines to arrive once the command has ended (a process that left the group may hold the pipe).
LAST_LINES = 1.0
# Free descriptors from here on are used to sort handed-over ones into place.
SPARE_FD = 64
CREDENTIALS = struct.Struct("3i")


class Child:
    """A command in a session and process group of its own. Belongs to one event loop."""

    def __init__(self, guard: Guard, on_lines: Callable[[bytes], None], on_ready: Callable[[Child], None]) -> None:
        self.ready = asyncio.Event()
        self.exited = asyncio.Event()
        self.waiting = asyncio.Event()
        self.status: int | None = None
        self.links: dict[str, str] = {}
        self.files: frozenset[str] | None = None
        self.sockets: dict[str, socket.socket] = {}
        self._guard = guard
        self._on_lines = on_lines
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._turn: int | None = None
        self._stopping = False

    def start(self, command: str, env: Mapping[str, str], cwd: str | None, predecessor: Child | None) -> None:
        """Start `command`. A predecessor's listening sockets are handed over; one still at work is waited for."""
        self._inbox = _Inbox()
        handed = {name: each.fileno() for name, each in predecessor.sockets.items()} if predecessor else {}
        theirs = None
        if predecessor and not predecessor.exited.is_set():
            theirs, self._turn = os.pipe()
            handed[TURN] = theirs
        try:
            self._process = self._popen(command, env, cwd, handed)
        finally:
            if theirs is not None:
                os.close(theirs)
        self.pid = self._process.pid
        self._guard.add(self.pid)
        self._loop.add_reader(self._inbox.socket, self._read_news)
        threading.Thread(target=self._watch, name=f"child-{self.pid}", daemon=True).start()

    def _popen(
        self, command: str, env: Mapping[str, str], cwd: str | None, handed: Mapping[str, int]
    ) -> subprocess.Popen[bytes]:
        die = die_with_parent(os.getpid())
        places = range(FIRST_FD, FIRST_FD + len(handed))

        def in_child() -> None:
            spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, SPARE_FD) for descriptor in handed.values()]
            for place, descriptor in zip(places, spare, strict=True):
                os.dup2(descriptor, place)
            die()

        with _taken(places):
            return subprocess.Popen(
                ["/bin/sh", "-c", f"{'export LISTEN_PID=$$' if handed else ''}\n{command}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**env, "NOTIFY_SOCKET": self._inbox.address, **_listen_variables(handed)},
                cwd=cwd,
                start_new_session=True,
                pass_fds=places,
                preexec_fn=in_child,
            )

    def give_turn(self) -> None:
        """Tell a waiting child that its predecessor is gone."""
        if self._turn is not None:
            os.close(self._turn)
            self._turn = None

    async def stop(self) -> None:
        """SIGTERM to all in the group, SIGKILL to those still there after KILL_AFTER seconds, and let go of it."""
        if not self.exited.is_set():
            self._stopping = True
            await self._end()
        self._let_go()

    async def _end(self) -> None:
        signal_group(self.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(KILL_AFTER):
                await self._gone()
        except TimeoutError:
            signal_group(self.pid, signal.SIGKILL)
            await self.exited.wait()
        self._guard.discard(self.pid)

    def close_sockets(self) -> None:
        """Give up the listening sockets: from now on connections are refused instead of waiting."""
        while self.sockets:
            self.sockets.popitem()[1].close()

    async def _gone(self) -> None:
        await self.exited.wait()
        while signal_group(self.pid, 0):  # noqa: ASYNC110 - a group has no event
            await asyncio.sleep(0.02)

    def _let_go(self) -> None:
        if self._inbox.socket.fileno() < 0:
            return
        self._loop.remove_reader(self._inbox.socket)
        self._inbox.close()
        self.close_sockets()
        self.give_turn()

    def _watch(self) -> None:
        """In a thread: read what the command says until it ends."""
        reader = threading.Thread(target=self._read_lines, name=f"output-{self.pid}", daemon=True)
        reader.start()
        status = self._process.wait()
        reader.join(LAST_LINES)
        with suppress(RuntimeError):  # the loop was closed by an error elsewhere
            self._loop.call_soon_threadsafe(self._note_exit, status)

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            for lines in whole_lines(pipe):
                self._on_lines(lines)

    def _note_exit(self, status: int) -> None:
        self.status = status
        if not self._stopping:  # it ended by itself: what it has left behind ends with it
            signal_group(self.pid, signal.SIGKILL)
            self._guard.discard(self.pid)
        self.exited.set()

    def _read_news(self) -> None:
        news, descriptors = self._inbox.receive()
        if descriptors:
            listener = socket.socket(fileno=descriptors[0])
            self.sockets[news.get("FDNAME", "unknown")] = listener
        if "X_FILES" in news:
            self.files = frozenset(json.loads(news["X_FILES"]))
        if "X_WAITING" in news:
            self.waiting.set()
        if news.get("READY") == "1":
            self.links = json.loads(news.get("X_LINKS", "{}"))
            self.ready.set()
            self._on_ready(self)


@contextmanager
def _taken(places: range) -> Generator[None]:
    """See to it that none of the descriptors `places` is free: Popen would use it for a pipe of its own."""
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < places.stop:
        held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _listen_variables(handed: Mapping[str, int]) -> dict[str, str]:
    return {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": ":".join(handed)} if handed else {}


class _Inbox:
    """The receiving end of one child's NOTIFY_SOCKET."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0))
        self.socket.setblocking(False)
        self._folder: str | None = None
        if sys.platform == "linux":
            # An abstract address leaves no file behind, but anybody may write to it: senders show who they are.
            self.address = f"@notify-{secrets.token_hex(8)}"
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.socket.bind("\0" + self.address[1:])
        else:
            self._folder = tempfile.mkdtemp()
            self.address = f"{self._folder}/notify"
            self.socket.bind(self.address)

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
        if self._folder:
            Path(self.address).unlink(missing_ok=True)
            Path(self._folder).rmdir()
