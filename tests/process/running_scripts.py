"""Runs a script or command of a test in a folder of its own, and sees what it prints and what it leaves behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Seconds. Only reached when a test fails, or on a machine that does much else.
PATIENCE = 40.0

PROCESSES = """
    import asyncio, os, sys, time
    from backend.app import run_processes
    from backend.process.process import AppProcess, AsyncAppProcess

    class Server(AsyncAppProcess):
        name = "server"

        async def serve(self, stopping):
            print("serving", flush=True)
            self.ready()
            await stopping.wait()
            print("served", flush=True)

        def cleanup(self):
            print("cleaned up", flush=True)
"""


class Running:
    """A command that runs. Everything it starts is found by its working folder, which is the test's own."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        self.folder = folder
        self._seen: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        inherited = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line.decode(errors="replace"))
        self._lines.put(None)

    @property
    def seen(self) -> str:
        """What it has printed, as far as it was waited for."""
        return "".join(self._seen)

    def until(self, text: str, times: int = 1) -> str:
        """Wait until `text` was printed so many times in all; return what was printed since the last call."""
        deadline = time.monotonic() + PATIENCE
        begin = len(self._seen)
        count = self.seen.count(text)
        while count < times:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"it ended without saying {text!r} {times} times:\n{self.seen}"
            self._seen.append(line)
            count += line.count(text)
        return "".join(self._seen[begin:])

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, number: int | None = None) -> int:
        """Wait for the end, after a signal if one is given; return the exit status as shells show it."""
        if number is not None:
            self.signal(number)
        status = self._process.wait(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self._seen.append(line)
        return status if status >= 0 else 128 - status

    def nothing_is_left(self) -> bool:
        """Wait until no process works in the test's folder."""
        eventually(lambda: not processes_in(self.folder))
        return True

    def kill_all(self) -> None:
        for pid in processes_in(self.folder):
            with suppress(ProcessLookupError):  # it was just ending
                os.kill(pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


Start = Callable[..., Running]


def supervising(script: str, *, fork: bool = True) -> list[str]:
    """A command that runs `script`, an AppProcess, under a supervisor that reloads."""
    return [
        sys.executable,
        "-c",
        textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        from backend.process.procfile import Command
        from backend.process.supervisor import Supervisor
        supervisor = Supervisor(lambda links: "Ready.", fork={fork})
        line = f"{{sys.executable}} {script}"
        command = Command("own.1", line, ours=True, env=dict(os.environ), argv=["{script}"])
        supervisor.reload(Path.cwd(), [Path(".data").absolute()], lambda: [command])
        supervisor.add(command)
        sys.exit(supervisor.run())
        """),
    ]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(PROCESSES) + textwrap.dedent(script)]


def processes_in(folder: Path) -> list[int]:
    """The living processes whose working folder this is."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state = entry.joinpath("stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and entry.joinpath("cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, for things that tell nobody when they happen."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
