"""`python -m backend` and what it says when it cannot run; the Procfile under honcho's own command."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": PATH, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "run this in the project's folder."),
        ("", "lists no process: each line is `name: command`."),
        ("web python", "line 1 of the Procfile is 'web python': each is `name: command`, with a name of its own."),
        ("a: true\n# note\na: true", "line 3 of the Procfile is 'a: true'"),
    ],
)
def test_a_procfile_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "Procfile").write_text(content)
    ended = run("backend", folder=tmp_path)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: true")
    ended = run("backend", folder=tmp_path, AGENT_API_PORT="many")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("AGENT_API_PORT is 'many'")


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    assert run("backend", "--colour", folder=tmp_path).returncode == 2


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: true")
    (tmp_path / "file").touch()
    ended = run("backend", "--data-dir", "file", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "cannot write to file/run (Not a directory): set DATA_DIR to a folder you own.\n"


def test_a_log_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: true")
    (tmp_path / "file").touch()
    ended = run("backend", "--log-dir", "file/logs", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "LOG_DIR is 'file/logs', where nothing can be written (Not a directory): set it to a folder you own.\n"
    )


def test_a_second_one_on_the_same_data_folder_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: sleep 1000")
    first = subprocess.Popen(
        [sys.executable, "-m", "backend"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    with first.stdout:
        assert any("Ready." in line for line in first.stdout)
        second = run("backend", folder=tmp_path)
        assert second.returncode == 1
        assert second.stderr == f".data is in use by pid {first.pid} (python -m backend): stop it, or set DATA_DIR.\n"
        first.send_signal(signal.SIGTERM)
        assert first.wait(40) == 143


def test_the_lock_is_free_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: kill -9 $PPID")
    assert run("backend", folder=tmp_path).returncode == -signal.SIGKILL
    assert run("backend", folder=tmp_path).returncode == -signal.SIGKILL, "not refused"


def test_the_procfile_is_one_that_honcho_takes() -> None:
    checked = run("honcho", "check", folder=ROOT)
    assert checked.returncode == 0
    assert "db, rest, websocket, executor, scheduler, notifier" in checked.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_under_plain_honcho_our_processes_end_with_it(tmp_path: Path, how: int) -> None:
    (tmp_path / "server.py").write_text(
        "import asyncio, os, sys\n"
        "from backend.app import run_processes\n"
        "from backend.process.process import AsyncAppProcess\n"
        "class Server(AsyncAppProcess):\n"
        "    name = 'server'\n"
        "    async def serve(self, stopping):\n"
        "        self.ready()\n"
        "        print('serving', os.getpid(), flush=True)\n"
        "        await stopping.wait()\n"
        "sys.exit(run_processes(Server()))\n"
    )
    (tmp_path / "Procfile").write_text("server: python server.py")
    honcho = subprocess.Popen(
        [sys.executable, "-m", "honcho", "start"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": PATH},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert honcho.stdout
    with honcho.stdout:
        server = int(next(line for line in honcho.stdout if "serving" in line).split()[-1])
        its_end = os.pidfd_open(server)
        while Path(f"/proc/{honcho.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)  # a signal that interrupts honcho's printing makes it fail and hang
        honcho.send_signal(how)
        honcho.wait(40)
        assert select.select([its_end], [], [], 40)[0], "it outlived honcho"
        os.close(its_end)
