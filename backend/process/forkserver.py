"""A process that has imported packages, and of which others are forks: `python -P forkserver.py DESCRIPTOR`.

Where there are no forks, `python -P forkserver.py - ARGUMENT…` is what a fork with these arguments would be.

It is a script of its own, so that none of the project's modules is loaded before a fork. It speaks JSON over the
seqpacket socket DESCRIPTOR with launch.py, which starts it:

    <- {"ahead": bool}                                  whether to fork one ahead of each start
    <- {"import": [names]}                              import these when there is nothing else to do
    <- {"start": id, "needs", "argv", "env", "cwd", "handed"}
                                                        import what it needs and fork; with it come descriptors: its
                                                        output, and those to be handed over
    -> {"id": id, "pid": pid}                           from the fork, once it is in a session of its own
    -> {"id": id, "status": status}                     it has ended; negative: by a signal
    -> {"id": id, "refused": reason}                    this process cannot be forked
    -> {"unsafe": name}                                 importing this started a thread: do without
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from setproctitle import setproctitle

PR_SET_PDEATHSIG = 1
# Looked up before any fork. Only Linux has it, and only there is anything forked.
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
# sd_listen_fds(3): the first descriptor that is handed over.
FIRST_FD = 3
# Free descriptors from here on are used to sort handed-over ones into place.
SPARE_FD = 64
# Seconds without anything to do until one is forked ahead: the one before it gets ready in that time.
AHEAD_AFTER = 0.1
# The id of a fork that has no job yet.
NOBODY = 0
# Bytes: what a message may have at most, and how many descriptors come with it.
LONGEST_MESSAGE = 1_048_576
MOST_DESCRIPTORS = 64


class ForkServer:
    """Imports, forks, and tells of the ends of its forks. One is forked ahead, if wanted, and waits for its job."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._pid = os.getpid()
        # Not epoll: it would be one more descriptor to be closed in each fork.
        self._selector = selectors.PollSelector()
        self._selector.register(link, selectors.EVENT_READ)
        self._to_import: list[str] = []
        self._forks: dict[int, tuple[int, int]] = {}  # pidfd -> pid, id
        self._ahead = False
        self._spare: tuple[socket.socket, int] | None = None  # its link, its pidfd

    def serve(self) -> list[str] | None:
        """Serve until the other end is closed (None); in a fork, return the command it is to run."""
        while True:
            ready = self._selector.select(self._patience())
            for key, _ in ready:
                if key.fileobj is not self._link:
                    self._bury(key.fd)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._link, LONGEST_MESSAGE, MOST_DESCRIPTORS)
                if not message:
                    return None
                argv = self._obey(message, descriptors)
                if argv:
                    return argv
            if not ready and self._to_import:
                self._import_next()
            elif not ready and (argv := self._fork_ahead()):
                return argv

    def _patience(self) -> float | None:
        if self._to_import:
            return 0
        return AHEAD_AFTER if self._ahead and not self._spare and not _has_threads() else None

    def _import_next(self) -> None:
        self._import(self._to_import.pop(0))
        if not self._to_import:
            gc.freeze()  # what forks share stays shared: their collections leave it alone

    def _import(self, name: str) -> None:
        if name in sys.modules or _has_threads():
            return
        with suppress(Exception):  # whoever needs it will say what is wrong
            importlib.import_module(name)
        if _has_threads():
            self._tell(unsafe=name)

    def _obey(self, message: bytes, descriptors: list[int]) -> list[str] | None:
        """In a fork: the command it is to run."""
        told = json.loads(message)
        try:
            if "ahead" in told:
                self._ahead = told["ahead"]
                return None
            if "import" in told:
                self._to_import.extend(told["import"])
                self._dismiss_spare()
                return None
            if told["needs"]:
                self._dismiss_spare()
                for name in told["needs"]:
                    self._import(name)
                gc.freeze()
            if self._spare:
                self._send_spare(told["start"], message, descriptors)
            elif _has_threads():
                self._tell(id=told["start"], refused="it has threads")
            elif self._fork(told["start"]):
                return self._become(told, descriptors)
        except OSError as error:  # no room for another process
            self._tell(id=told["start"], refused=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return None

    def _fork(self, number: int) -> bool:
        """True in the fork."""
        pid = os.fork()
        if pid == 0:
            _die_with(self._pid)
            return True
        pidfd = os.pidfd_open(pid)
        self._forks[pidfd] = pid, number
        self._selector.register(pidfd, selectors.EVENT_READ)
        return False

    def _fork_ahead(self) -> list[str] | None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_MESSAGE)
        try:
            forked = self._fork(NOBODY)
        except OSError:
            self._ahead = False
            return None
        if not forked:
            theirs.close()
            self._spare = ours, next(reversed(self._forks))
            return None
        ours.close()
        message, descriptors, _, _ = socket.recv_fds(theirs, LONGEST_MESSAGE, MOST_DESCRIPTORS)
        theirs.close()
        if not message:
            os._exit(0)
        return self._become(json.loads(message), descriptors)

    def _send_spare(self, number: int, message: bytes, descriptors: list[int]) -> None:
        assert self._spare
        link, pidfd = self._spare
        self._spare = None
        self._forks[pidfd] = self._forks[pidfd][0], number
        with link, suppress(OSError):  # it was killed: its end is told
            socket.send_fds(link, [message], descriptors)

    def _dismiss_spare(self) -> None:
        if self._spare:
            self._spare[0].close()
            self._spare = None

    def _bury(self, pidfd: int) -> None:
        pid, number = self._forks.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        if self._spare and self._spare[1] == pidfd:
            self._dismiss_spare()
        if number != NOBODY:
            self._tell(id=number, status=os.waitstatus_to_exitcode(status))

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> list[str]:
        """In the fork: be as if started anew, with an environment, a folder and descriptors of its own."""
        os.setsid()
        for pidfd in self._forks:
            os.close(pidfd)
        handed: list[str] = message["handed"]
        listen = {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": ":".join(handed), "LISTEN_PID": str(os.getpid())}
        _take_environment(message["env"] | (listen if handed else {}))
        os.chdir(message["cwd"])
        # Out of the way of the places from FIRST_FD on, this end of the link among them.
        self._link = socket.socket(fileno=fcntl.fcntl(self._link.detach(), fcntl.F_DUPFD_CLOEXEC, SPARE_FD))
        output, *rest = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, SPARE_FD) for each in descriptors]
        for each in descriptors:
            os.close(each)
        descriptors.clear()
        os.closerange(FIRST_FD, SPARE_FD)
        for place, descriptor in [(1, output), (2, output), *enumerate(rest, FIRST_FD)]:
            os.dup2(descriptor, place)
        for descriptor in (output, *rest):
            os.close(descriptor)
        _forget_random_state()
        gc.enable()
        self._tell(id=message["start"], pid=os.getpid())
        self._link.close()
        return message["argv"]

    def _tell(self, **message: Any) -> None:
        with suppress(OSError):  # nobody listens any more: the end comes with the next look
            self._link.send(json.dumps(message).encode())


def _die_with(parent: int) -> None:
    """Have the end of `parent` send us SIGTERM."""
    if PRCTL:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _has_threads() -> bool:
    return len(os.listdir("/proc/self/task")) > 1


def _take_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    time.tzset()


def _forget_random_state() -> None:
    """The standard library sees to its own; a package's would be the same in every fork."""
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()  # pyright: ignore


def run(argv: Sequence[str], *, forked: bool) -> None:
    """Be `python *argv`: `-m module …`, `-c code …` or `script.py …`."""
    kind, *rest = argv
    folders = {"-m": os.getcwd(), "-c": ""}
    sys.path.insert(0, folders.get(kind, os.path.dirname(os.path.abspath(kind))))
    sys.orig_argv = [sys.executable, *argv]
    sys.argv = rest if kind == "-m" else ["-c", *rest[1:]] if kind == "-c" else list(argv)
    setproctitle(shlex.join(sys.orig_argv))
    _track(forked=forked)
    if kind == "-m":
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(kind, run_name="__main__")


def _track(*, forked: bool) -> None:
    from backend.process import tracking  # noqa: PLC0415 - the project's, so only now
    from backend.process.failure import answer_where  # noqa: PLC0415

    if forked:
        tracking.note_fork()
    tracking.track()
    answer_where(Path.cwd())


def become(link: socket.socket, parent: int) -> NoReturn:
    """In a process just forked off `parent`: be a fork server as if started by the command."""
    os.setsid()
    _die_with(parent)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.closerange(FIRST_FD, link.fileno())
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]  # forks are to have the project's code of their own time
    del sys.path[0]
    sys.path_importer_cache.clear()
    _serve(link)


def main() -> None:
    if sys.argv[1] == "-":
        _run(sys.argv[2:], forked=False)
    _serve(socket.socket(fileno=int(sys.argv[1])))


def _serve(link: socket.socket) -> NoReturn:
    # Once before the fork: it looks for its place beside the environment, which forks exchange.
    setproctitle(f"{sys.executable} -P {__file__}")
    gc.disable()  # imports leave little garbage, and what moves least is shared longest
    argv = ForkServer(link).serve()
    if argv is None:
        os._exit(0)
    _run(argv, forked=True)


def _run(argv: Sequence[str], *, forked: bool) -> NoReturn:
    try:
        run(argv, forked=forked)
    except SystemExit as error:
        _end(error.code)
    except BaseException as error:
        _report(error)
        _end(1)
    _end(0)


def _report(error: BaseException) -> None:
    try:
        from backend.process.failure import describe, report  # noqa: PLC0415

        report(describe(error, Path.cwd()))
    except Exception:  # it is what reports that is broken
        sys.stderr.write("".join(traceback.format_exception_only(error)))


def _end(code: object) -> NoReturn:
    """As sys.exit, without taking apart all that was imported, which takes a tenth of a second."""
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # pyright: ignore
    atexit._run_exitfuncs()  # pyright: ignore
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    main()
