"""Forks of a process that has imported the packages: as good as started anew, and sooner there."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.process.running_scripts import ROOT, Running, Start, eventually, processes_in, python, supervising

TELLING = """
    import package
    def tell(name):
        import random, signal, threading
        descriptors = sorted(int(each) for each in os.listdir("/proc/self/fd"))
        tasks = len(os.listdir("/proc/self/task"))
        default = signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        print(f"{name}: imported={package.PID} pid={os.getpid()} random={random.random()} tasks={tasks}", flush=True)
        print(f"{name}: descriptors={descriptors} default={default} session={os.getsid(0) == os.getpid()}", flush=True)
        print(f"{name}: argv={sys.argv} main={__name__} title={os.environ['HONCHO_PROCESS_NAME']}", flush=True)
    class Telling(Server):
        name = "telling"
        def run(self):
            tell(os.environ["HONCHO_PROCESS_NAME"])
            super().run()
    sys.exit(run_processes(Telling(), Telling()))
"""
PACKAGE = "import os\nPID = os.getpid()\n"


@pytest.fixture
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, one of which tells where it was imported."""
    folder = tmp_path_factory.mktemp("environment") / "site-packages"
    folder.mkdir()
    (folder / "package.py").write_text(PACKAGE)
    return folder


@pytest.fixture
def telling(start: Start, packages: Path):
    return lambda: ready(start(TELLING, PYTHONPATH=f"{ROOT}{os.pathsep}{packages}"))


def ready(running: Running) -> Running:
    running.until("Ctrl-C stops it.")
    return running


def told(running: Running, word: str) -> list[str]:
    return re.findall(rf"telling.*: .*{word}=(\[.*?\]|\S+)", running.seen)


def fork_server_of(running: Running) -> int:
    [found] = [pid for pid in processes_in(running.folder) if "forkserver" in command_of(pid)]
    return found


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_what_processes_have_imported_is_imported_beforehand_the_next_time(telling) -> None:
    first = telling()
    first.end(signal.SIGINT)
    assert told(first, "imported") == told(first, " pid"), "the first time each imports by itself"
    second = telling()
    server = str(fork_server_of(second))
    second.end(signal.SIGINT)
    assert told(second, "imported") == [server, server]


def test_a_fork_carries_no_threads_descriptors_signals_or_random_state(telling) -> None:
    telling().end(signal.SIGINT)
    running = telling()
    running.end(signal.SIGINT)
    assert set(told(running, "tasks")) == {"1"}
    assert len(set(told(running, "random"))) == 2
    # Standard streams, and the one by which the folder is listed.
    assert set(told(running, "descriptors")) == {"[0, 1, 2, 3]"}
    assert set(told(running, "default")) == {"True"}


def test_a_fork_is_what_its_command_would_be(telling) -> None:
    telling().end(signal.SIGINT)
    running = telling()
    running.end(signal.SIGINT)
    assert set(told(running, "session")) == {"True"}
    assert set(told(running, "argv")) == {"['-c']"}
    assert set(told(running, "main")) == {"__main__"}
    assert sorted(told(running, "title")) == ["telling.1", "telling.2"]
    assert running.nothing_is_left()


def test_a_package_that_starts_a_thread_is_not_imported_beforehand(telling, packages: Path) -> None:
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=[1000], daemon=True).start()\n"
    (packages / "package.py").write_text(PACKAGE + thread)
    telling().end(signal.SIGINT)
    running = telling()
    running.end(signal.SIGINT)
    assert told(running, "imported") == told(running, " pid")
    assert json.loads((running.folder / ".data/run/imports").read_text())["unsafe"] == ["package"]


def test_a_killed_fork_server_costs_no_more_than_a_restart(telling) -> None:
    running = telling()
    while len(before := told(running, " pid")) < 2:
        running.until("main=", times=len(before) + 1)
    os.kill(fork_server_of(running), signal.SIGKILL)
    eventually(lambda: len(told(running, " pid")) >= 4 or not running.until("imported"))
    assert not set(before) & set(told(running, " pid")[2:])
    assert running.end(signal.SIGINT) == 130
    assert running.nothing_is_left()


def test_new_packages_are_taken_in(start: Start, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "import package\n"
        + textwrap.dedent(python("")[2])  # what scripts of tests begin with
        + "print('version', package.VERSION, flush=True)\nsys.exit(run_processes(Server(), reload=True))\n"
    )
    (packages / "package.py").write_text("VERSION = 1\n")
    running = start([sys.executable, "server.py"], PYTHONPATH=f"{ROOT}{os.pathsep}{packages}")
    ready(running)
    (packages / "package.py").write_text("VERSION = 22\n")
    running.until("The installed packages have changed.")
    running.until("version 22")
    running.until("Reloaded server")
    assert running.end(signal.SIGINT) == 130


def test_where_forks_are_not_safe_plain_processes_do_the_same(start: Start, tmp_path: Path) -> None:
    (tmp_path / "word.py").write_text("WORD = 'old'\n")
    (tmp_path / "own.py").write_text(
        textwrap.dedent("""
        import sys
        from backend.app import run_processes
        from backend.process.process import AsyncAppProcess
        import word
        class Own(AsyncAppProcess):
            name = "own"
            async def serve(self, stopping):
                print("says", word.WORD, flush=True)
                self.ready()
                await stopping.wait()
        sys.exit(run_processes(Own()))
        """)
    )
    running = start(supervising("own.py", fork=False))
    running.until("says old")
    running.until("Ready.")
    assert not [pid for pid in processes_in(tmp_path) if "forkserver" in command_of(pid)]
    (tmp_path / "word.py").write_text("WORD = \n")
    running.until("word.py:1: SyntaxError")
    (tmp_path / "word.py").write_text("WORD = 'new'\n")
    running.until("says new")
    assert running.end(signal.SIGTERM) == 143
    assert running.nothing_is_left()
