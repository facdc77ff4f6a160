"""Other terminals of the same user: they see what runs, restart it, and read what it said."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.process import roster
from backend.process.roster import Roster, UnitStatus
from tests.process.running_scripts import ROOT, Running, Start, eventually
from tests.process.test_reload import ask, port_of, project, ready
from tests.process.test_supervisor import TWO, procfile

__all__ = ["project"]


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backend.control", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def told(folder: Path) -> Roster:
    found = roster.read(folder / ".data/run")
    assert found
    return found


def unit(folder: Path, name: str) -> UnitStatus:
    return next(unit for unit in told(folder).units if unit.name == name)


def connect(folder: Path) -> socket.socket:
    address = "\0" + told(folder).control[1:]
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(address)
    return connection


def request(folder: Path, line: bytes) -> Any:
    with connect(folder) as connection, connection.makefile("rb") as answers:
        connection.sendall(line + b"\n")
        return json.loads(answers.readline())


def test_a_restart_gives_new_processes_and_refuses_no_connection(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"]))
    port = port_of(running)
    before = unit(project, "server").pid
    asking = subprocess.Popen(
        [sys.executable, "-m", "backend.control", "restart"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    answers = 0
    while asking.poll() is None:
        assert ask(port) == "old"
        answers += 1
    assert answers
    assert asking.communicate()[0].startswith("Restarted server in ")
    after = unit(project, "server")
    assert after.pid != before
    assert (after.reloads, after.crashes, after.state) == (1, 0, "running")
    running.until("Restarted server in")
    running.end(signal.SIGINT)


def test_only_the_named_are_restarted_and_an_unknown_name_tells_which_there_are(start: Start, tmp_path: Path) -> None:
    running = ready(start(TWO))
    before = {each.name: each.pid for each in told(tmp_path).units}
    assert command(tmp_path, "restart", "other").returncode == 0
    after = {each.name: each.pid for each in told(tmp_path).units}
    assert {name for name in before if before[name] != after[name]} == {"other"}
    refused = command(tmp_path, "restart", "nope")
    assert refused.returncode == 1
    assert refused.stderr == "There is no process nope: there are server and other.\n"
    running.end(signal.SIGINT)


def test_one_that_waits_after_a_crash_is_started_at_once(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, broken="[ -e ok ] || exit 3; sleep 1000"))
    running.until("starts again in 4 s")
    assert unit(tmp_path, "broken").state == "restarting"
    assert (unit(tmp_path, "broken").next_try or 0) > time.time() + 1
    assert "ended with status 3" in command(tmp_path, "status").stdout
    (tmp_path / "ok").touch()
    began = time.monotonic()
    assert command(tmp_path, "restart", "broken").returncode == 0
    assert time.monotonic() - began < 2.5
    found = unit(tmp_path, "broken")
    assert (found.state, found.next_try, found.failure) == ("running", None, None)
    running.end(signal.SIGINT)


def test_a_failed_restart_says_why_and_the_one_before_goes_on(start: Start, project: Path) -> None:
    (project / "server.py").write_text((project / "server.py").read_text().replace("reload=True", "reload=False"))
    script = "from server import *\nsys.exit(run_processes(Server(), Other()))\n"
    (project / "both.py").write_text(script)
    running = ready(start([sys.executable, "both.py"]))
    (project / "words.py").write_text("GREETING = \n")
    failed = command(project, "restart", "server")
    assert failed.returncode == 1
    assert "server was not restarted" in failed.stderr
    assert ask(port_of(running)) == "old"
    # Where no save is waited for, a crash is answered as ever.
    (project / "words.py").write_text("GREETING = 'newer'\n")
    os.kill(unit(project, "server").pid, signal.SIGKILL)
    running.until("starts again in 0.5 s")
    eventually(lambda: unit(project, "server").state == "running" and ask(port_of(running)) == "newer")
    running.end(signal.SIGTERM)


def test_a_failed_reload_is_told_until_it_is_mended(start: Start, project: Path) -> None:
    running = ready(start([sys.executable, "server.py"]))
    (project / "words.py").write_text("\nraise RuntimeError('no')\n")
    running.until("the last good code goes on")
    found = unit(project, "server")
    assert found.state == "running"
    assert found.failure
    assert (found.failure.sentence, found.failure.file, found.failure.line) == ("RuntimeError: no", "words.py", 2)
    assert abs((found.failed_at or 0) - time.time()) < 30
    [held] = roster.held(project / ".data/run")
    assert held.processes == ["server"]
    assert "words.py:2: RuntimeError: no" in command(project, "status").stdout
    (project / "words.py").write_text("GREETING = 'mended'\n")
    running.until("Reloaded server")
    eventually(lambda: unit(project, "server").failure is None)
    assert roster.held(project / ".data/run") == []
    running.end(signal.SIGINT)


def test_status_tells_uptime_memory_and_reloads_of_each(start: Start, tmp_path: Path) -> None:
    running = ready(start(TWO))
    rows = {row["name"]: row for row in json.loads(command(tmp_path, "status", "--json").stdout)}
    assert set(rows) == {"app", "server", "other"}
    assert 1_000_000 < rows["server"]["memory"] < 200_000_000
    assert (rows["server"]["state"], rows["server"]["reloads"], rows["server"]["error"]) == ("running", 0, None)
    shown = command(tmp_path, "status").stdout
    assert shown.splitlines()[0].split("  ")[0] == "process"
    assert "\033" not in shown
    running.end(signal.SIGINT)
    assert roster.read(tmp_path / ".data/run") is None
    assert not (tmp_path / ".data/run/units").exists()


def test_the_last_lines_are_shown_and_followed(start: Start, tmp_path: Path) -> None:
    loop = "for i in 1 2 3; do echo one $i; done; until [ -e go ]; do sleep 0.05; done; echo later; sleep 1000"
    running = start(procfile(tmp_path, chatty=loop, other="echo from the other; sleep 1000"))
    running.until("one 3")
    running.until("from the other")
    shown = command(tmp_path, "logs", "chatty", "--lines", "2").stdout
    assert [line.partition("| ")[2] for line in shown.splitlines()] == ["one 2", "one 3"]
    assert "chatty.1" in shown
    assert "from the other" in command(tmp_path, "logs").stdout
    following = start([sys.executable, "-m", "backend.control", "logs", "chatty", "--follow", "--lines=1"])
    following.until("one 3")
    (tmp_path / "go").touch()
    following.until("later")
    assert running.end(signal.SIGINT) == 130
    assert following.end() == 0
    assert "from the other" not in following.seen


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"nonsense", "A request is a line with a JSON object"),
        (b"[" * 30_000, "A request is a line with a JSON object"),
        (b'{"do": "fly"}', 'Cannot do "fly": there are restart and logs.'),
        (b"{}", "Cannot do null"),
        (b'{"do": "restart", "names": "rest"}', 'names is "rest": it has to be such as [].'),
        (b'{"do": "restart", "names": [1]}', "names is [1]"),
        (b'{"do": "restart", "force": true}', "force cannot be given here: there are names."),
        (b'{"do": "logs", "lines": true}', "lines is true: it has to be such as 100."),
        (b"x" * 100_000, "The request is too long"),
    ],
)
def test_a_request_that_is_none_gets_an_error(asked: Path, line: bytes, sentence: str) -> None:
    assert request(asked, line)["error"].startswith(sentence)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a supervisor that any number of tests may ask."""
    folder = tmp_path_factory.mktemp("asked")
    running = ready(Running(procfile(folder, a="sleep 1000"), folder))
    yield folder
    running.end(signal.SIGINT)
    running.kill_all()


def test_clients_that_hang_hurt_nobody(start: Start, tmp_path: Path) -> None:
    flood = "until [ -e go ]; do sleep 0.02; done; yes 01234567890123456789 | head -n 300000; echo all; sleep 1000"
    running = ready(start(procfile(tmp_path, flood=f"echo here; {flood}")))
    with connect(tmp_path), connect(tmp_path) as deaf:
        deaf.sendall(b'{"do": "logs", "follow": true}\n')
        deaf.recv(1, socket.MSG_PEEK)  # from now on it is followed
        (tmp_path / "go").touch()
        running.until("| all")
        assert command(tmp_path, "restart", "flood").returncode == 0
        supervisor, missed = told(tmp_path).pid, 0
        with deaf.makefile("rb") as answers:
            while missed <= 1000:
                missed += json.loads(answers.readline()).get("missed", 0)
        peak = int(Path(f"/proc/{supervisor}/status").read_text().partition("VmHWM:")[2].split()[0])
        assert peak < 120_000, "kB"
        running.end(signal.SIGINT)
    assert running.nothing_is_left()


def test_another_user_is_refused(asked: Path) -> None:
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + sys.argv[1][1:])\n"
        "os.write(1, s.recv(1000))"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    found = subprocess.run(
        [sys.executable, "-c", code, told(asked).control], capture_output=True, text=True, timeout=40, check=False
    )
    assert json.loads(found.stdout) == {"error": "This server belongs to another user."}


@pytest.mark.parametrize("arguments", [["status"], ["restart"], ["restart", "rest"], ["logs"], ["logs", "--follow"]])
def test_without_a_server_it_is_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    ended = command(tmp_path, *arguments)
    assert ended.returncode == 1
    assert ended.stderr == f"Nothing runs in {tmp_path}/.data: start it with `invoke dev`.\n"


def test_processes_without_a_supervisor_are_seen_but_not_asked(start: Start, tmp_path: Path) -> None:
    running = start("sys.exit(run_processes(Server()))")
    running.until("serving")
    eventually(lambda: "running" in command(tmp_path, "status").stdout)
    refused = command(tmp_path, "restart")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"server in {tmp_path}/.data run without a supervisor")
    running.end(signal.SIGINT)
