"""Starts commands: as forks of a fork server where it can be had, else as plain processes."""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from backend.process import forkserver
from backend.process.forkserver import FIRST_FD, LONGEST_MESSAGE, SPARE_FD
from backend.process.guard import Guard
from backend.process.orphans import die_with_parent
from backend.process.tracking import RELOAD_ROOT

# A fork server lives in Linux only: elsewhere a fork of an interpreter is not safe, or there is none.
CAN_FORK = sys.platform == "linux"
# Under this name the memory has what a supervisor itself imports.
SUPERVISOR = "app"


class CannotFork(Exception):
    """The fork server does not take this one: the message says why."""


@dataclass(frozen=True)
class Job:
    """What to start. `argv` is what follows `python`, for a command that may be forked; None for any other.

    Jobs of one `name` import the same packages.
    """

    name: str
    command: str
    argv: Sequence[str] | None
    env: Mapping[str, str]
    cwd: str
    output: int
    handed: Mapping[str, int] = field(default_factory=dict[str, int])


class Launched(Protocol):
    """A process that was started, in a session of its own."""

    pid: int

    async def wait(self) -> int:
        """Its exit status; negative: the signal that ended it."""
        ...


class Plain:
    """A process started by sh; one that is to tell what it reads, by way of the part of the fork server that does."""

    def __init__(self, job: Job) -> None:
        command = job.command
        if job.argv and RELOAD_ROOT in job.env:
            command = f"exec {shlex.join([sys.executable, '-P', forkserver.__file__, '-', *job.argv])}"
        die = die_with_parent(os.getpid())
        places = range(FIRST_FD, FIRST_FD + len(job.handed))

        def in_child() -> None:
            spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, SPARE_FD) for descriptor in job.handed.values()]
            for place, descriptor in zip(places, spare, strict=True):
                os.dup2(descriptor, place)
            die()

        handed = {"LISTEN_FDS": str(len(places)), "LISTEN_FDNAMES": ":".join(job.handed)} if places else {}
        with _taken(places):
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"{'export LISTEN_PID=$$' if places else ''}\n{command}"],
                stdin=subprocess.DEVNULL,
                stdout=job.output,
                stderr=subprocess.STDOUT,
                env={**job.env, **handed},
                cwd=job.cwd,
                start_new_session=True,
                pass_fds=places,
                preexec_fn=in_child,
            )
        self.pid = self._process.pid

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait)


class Fork:
    """A process forked by a ForkServer, which tells of its end."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.born: asyncio.Future[int] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()

    def note(self, message: Mapping[str, Any]) -> None:
        if "pid" in message:
            self.pid = message["pid"]
            self.born.set_result(self.pid)
        elif "refused" in message:
            self.born.set_exception(CannotFork(message["refused"]))
        else:
            self.end(message["status"])

    def end(self, status: int) -> None:
        if not self.born.done():
            self.born.set_exception(CannotFork("it ended"))
        if not self._status.done():
            self._status.set_result(status)

    def end_without_parent(self) -> None:
        """The fork server is gone, which sends SIGTERM to its forks; nobody will tell the status."""
        loop = asyncio.get_running_loop()
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return self.end(-signal.SIGTERM)

        def note_end() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self.end(-signal.SIGTERM)

        loop.add_reader(pidfd, note_end)

    async def wait(self) -> int:
        return await asyncio.shield(self._status)


class ForkServer:
    """The other end of forkserver.py. When it dies, so do its forks.

    It dies with the thread that made it; from `begin` on it belongs to the event loop that is running.
    """

    def __init__(self, link: socket.socket, pid: int, wait: Callable[[], object]) -> None:
        self._link = link
        self._pid = pid
        self._wait = wait
        self._needed: set[str] = set()
        self._forks: dict[int, Fork] = {}
        self._count = 0
        self._retired = False

    @classmethod
    def by_fork(cls, memory: Memory) -> ForkServer:
        """Fork it off this process, which has no threads yet, and has loaded nothing of the project but this.

        What the two have in common, this process imports before.
        """
        for name in memory.of(SUPERVISOR):
            with suppress(Exception):
                importlib.import_module(name)
        link, theirs = _link()
        pid = os.fork()
        if pid == 0:
            link.close()
            forkserver.become(theirs, os.getppid())
        theirs.close()
        return cls(link, pid, partial(os.waitpid, pid, 0))

    @classmethod
    def by_command(cls) -> ForkServer:
        """Start it anew."""
        link, theirs = _link()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", forkserver.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with_parent(os.getpid()),
            )
        return cls(link, process.pid, process.wait)

    def begin(self, guard: Guard, on_unsafe: Callable[[str], None], *, ahead: bool) -> None:
        """Be ready to start jobs; with `ahead`, have one forked before it is asked for."""
        self._guard = guard
        self._on_unsafe = on_unsafe
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._link, self._hear)
        guard.add(self._pid)
        self._say({"ahead": ahead})

    @property
    def alive(self) -> bool:
        return self._link.fileno() >= 0

    def import_too(self, modules: Sequence[str]) -> None:
        """Have it import more, when it has nothing else to do."""
        if modules and self.alive:
            self._say({"import": list(modules)})

    async def start(self, job: Job, needs: Sequence[str]) -> Fork:
        """Fork, once what it needs is imported. Raises CannotFork where it cannot."""
        self._count += 1
        number = self._count
        message = {"start": number, "needs": [name for name in needs if name not in self._needed], "argv": job.argv}
        self._needed.update(needs)
        message |= {"env": dict(job.env), "cwd": job.cwd, "handed": [*job.handed]}
        fork = self._forks[number] = Fork()
        if not self._say(message, job.output, *job.handed.values()):
            del self._forks[number]
            raise CannotFork("its environment is too large, or the fork server is gone")
        await fork.born
        return fork

    def retire(self) -> None:
        """Start no more; it ends with the last of its forks."""
        self._retired = True
        if not self._forks:
            self._end()

    def _say(self, message: Mapping[str, Any], *descriptors: int) -> bool:
        data = json.dumps(message).encode()
        if len(data) > LONGEST_MESSAGE:
            return False
        try:
            socket.send_fds(self._link, [data], descriptors)
        except OSError:
            return False
        return True

    def _hear(self) -> None:
        message: dict[str, Any] = {}
        with suppress(OSError):
            message = json.loads(self._link.recv(LONGEST_MESSAGE) or "{}")
        if not message:
            self._end()
        elif "unsafe" in message:
            self._on_unsafe(message["unsafe"])
        elif fork := self._forks.get(message["id"]):
            fork.note(message)
            if "pid" not in message:
                del self._forks[message["id"]]
            if self._retired and not self._forks:
                self._end()

    def _end(self) -> None:
        """Its end ends the forks that are left."""
        if not self.alive:
            return
        self._loop.remove_reader(self._link)
        self._link.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._wait()
        self._guard.discard(self._pid)
        while self._forks:
            self._forks.popitem()[1].end_without_parent()


def _link() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_MESSAGE)
    return ends


class Launcher:
    """Starts jobs, by a fork server if `fork` (perhaps one that is there), which keeps one ready if `ahead`.

    What is to be imported beforehand is kept in the file `memory`.
    """

    def __init__(
        self, guard: Guard, memory: Path | None, server: ForkServer | None = None, *, fork: bool, ahead: bool
    ) -> None:
        self._guard = guard
        self._ahead = ahead
        self._memory = Memory(memory)
        self._fork = fork
        own = (__package__ or "").partition(".")[0]
        self._memory.add(SUPERVISOR, [name for name in sys.modules if name.partition(".")[0] not in (own, "__main__")])
        self._server = self._begin(server or ForkServer.by_command()) if fork else None

    async def start(self, job: Job) -> Launched:
        if self._fork and job.argv is not None:
            if self._server is None or not self._server.alive:
                self._server = self._begin(ForkServer.by_command())
            with suppress(CannotFork):
                return await self._server.start(job, self._memory.of(job.name))
        return Plain(job)

    def learn(self, name: str, modules: Sequence[str]) -> None:
        """A process of this name had to import these by itself: the next one will find them imported."""
        new = self._memory.add(name, modules)
        if self._server and self._server.alive:
            self._server.import_too(new)

    def renew(self) -> None:
        """Packages have changed: start from new ones from now on."""
        if self._server:
            self._server.retire()
            self._memory.forget()
            self._server = self._begin(ForkServer.by_command())

    def close(self) -> None:
        self._memory.write()
        if self._server:
            self._server.retire()

    def _begin(self, server: ForkServer) -> ForkServer:
        server.begin(self._guard, self._note_unsafe, ahead=self._ahead)
        return server

    def _note_unsafe(self, module: str) -> None:
        self._memory.exclude(module)
        if self._server:
            self._server.retire()
            self._server = self._begin(ForkServer.by_command())


class Memory:
    """What processes had to import by themselves, by their names, as long as the same packages are installed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._modules: dict[str, list[str]] = {}
        self._unsafe: list[str] = []
        self._changed = False
        if path:
            with suppress(OSError, ValueError, KeyError):
                kept = json.loads(path.read_text(encoding="utf-8"))
                if kept["packages"] == _packages():
                    self._modules, self._unsafe = kept["modules"], kept["unsafe"]

    def of(self, name: str) -> list[str]:
        return [module for module in self._modules.get(name, ()) if module not in self._unsafe]

    def all(self) -> list[str]:
        return list(dict.fromkeys(module for name in self._modules for module in self.of(name)))

    def add(self, name: str, modules: Sequence[str]) -> list[str]:
        """Those of `modules` that may be imported beforehand."""
        known = self._modules.setdefault(name, [])
        new = [module for module in modules if module not in known]
        known.extend(new)
        self._changed |= bool(new)
        return [module for module in new if module not in self._unsafe]

    def exclude(self, module: str) -> None:
        self._unsafe.append(module)
        self._changed = True

    def forget(self) -> None:
        self._modules.clear()
        self._unsafe.clear()
        self._changed = True

    def write(self) -> None:
        """Keep it for the next time. Without the file that just begins slower."""
        if self._path and self._changed:
            kept = {"packages": _packages(), "unsafe": self._unsafe, "modules": self._modules}
            with suppress(OSError):
                self._path.with_suffix(".new").write_text(json.dumps(kept), encoding="utf-8")
                self._path.with_suffix(".new").replace(self._path)
            self._changed = False


def _packages() -> str:
    """What tells one set of installed packages from another."""
    folders = [Path(each) for each in sys.path if each.endswith("site-packages")]
    return " ".join(
        [sys.version.split()[0], *(f"{each}@{each.stat().st_mtime_ns}" for each in folders if each.is_dir())]
    )


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
