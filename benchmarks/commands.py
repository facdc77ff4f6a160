"""Runs a command with everything it starts, knows all of these processes, and leaves none of them (Linux)."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PR_SET_CHILD_SUBREAPER = 36
# Seconds a command has to end by itself.
PATIENCE = 10.0


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], output: int | IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in `folder`. One at a time: whatever this process has started is taken for the command's."""
    # Those whose parents end become children of this process, and so stay in sight.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        _end(process)


def environment(**more: str) -> dict[str, str]:
    """The variables of a command: this interpreter is `python`, and no setting of the caller gets in."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "FORCE_COLOR")}
    # Compiled modules are kept, as on people's machines; some images tell Python not to.
    return inherited | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": ""} | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def living() -> list[int]:
    """All processes that the command has started and that have not ended, the command included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # proc_pid_stat(5): after the command in parentheses come the state and the parent.
            state, parent = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def gone(seconds: float) -> bool:
    """Wait until all of them have ended. False if some still live after so many seconds."""
    deadline = time.monotonic() + seconds
    while pids := living():
        if not all(_ended(pid, deadline) for pid in pids):
            return False
    return True


def _ended(pid: int, deadline: float) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0])
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    if not gone(PATIENCE):
        while pids := living():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            gone(PATIENCE)
    process.wait()
    if process.stdout:
        process.stdout.close()
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # those that became ours
            pass
