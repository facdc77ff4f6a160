"""Single keys in the terminal of a supervisor, typed into a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backend.process import roster
from tests.process.running_scripts import PATIENCE, ROOT, eventually, processes_in
from tests.process.test_supervisor import procfile

Settings = list[object]


class Terminal:
    """A shell with job control in a pseudo-terminal, which has started `python -m backend` in its foreground."""

    def __init__(self, folder: Path, command: str) -> None:
        self.folder = folder
        self.pid, self._ours = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PS1": "$ ", "TERM": "dumb", "NO_COLOR": "1"}
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        self.seen = ""
        self.until("$ ")
        self.before = self.settings()
        self.type(f"{command}\n")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, text: str) -> str:
        """Wait until `text` is shown; return what was shown since the last call, up to it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert select.select([self._ours], [], [], deadline - time.monotonic())[0], f"no {text!r}:\n{self.seen}"
            self.seen += os.read(self._ours, 65_536).decode(errors="replace")
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def settings(self) -> Settings:
        return termios.tcgetattr(self._ours)

    def are_as_before(self) -> bool:
        return self.settings() == self.before

    def at_work(self) -> int:
        """The pid of the supervisor."""
        found = roster.read(self.folder / ".data/run")
        assert found
        return found.pid

    def close(self) -> None:
        for pid in processes_in(self.folder):
            with suppress(ProcessLookupError):  # it was just ending
                os.kill(pid, signal.SIGKILL)
        os.close(self._ours)
        os.waitpid(self.pid, 0)


APP = f"{sys.executable} -m backend"
Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    procfile(tmp_path, one="echo hello; while sleep 0.1; do echo one says; done", two="sleep 1000")
    opened: list[Terminal] = []

    def begin(command: str = APP, until: str = "Keys: ") -> Terminal:
        opened.append(Terminal(tmp_path, command))
        opened[-1].until(until)
        return opened[-1]

    yield begin
    for terminal in opened:
        terminal.close()


def test_keys_show_the_state_restart_and_stop(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.type("s")
    terminal.until("process  state")
    terminal.until("two ")
    terminal.type("2")
    terminal.until("Restarted two in")
    terminal.type("r")
    terminal.until("Restarted one and two in")
    terminal.type("9")
    terminal.until("There is no process 9: 1 one  2 two")
    terminal.type("h")
    terminal.until("h help")
    terminal.type("q")
    terminal.until("stopped (rc")
    terminal.until("$ ")
    assert terminal.are_as_before()
    terminal.type("echo status $?\n")
    terminal.until("status 130")


def test_the_lines_of_one_alone_are_shown_until_all_are_again(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.until("one says")
    terminal.type("l2")
    terminal.until("Only the lines of two are shown")
    terminal.type("s")
    assert "one says" not in terminal.until("process  state")
    terminal.type("l")
    terminal.until("The lines of all are shown.")
    terminal.until("one says")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_leave_the_terminal_as_it_was(open_terminal: Open, number: int) -> None:
    terminal = open_terminal()
    eventually(lambda: not terminal.are_as_before())
    os.kill(terminal.at_work(), number)
    terminal.until("$ ")
    assert terminal.are_as_before()


def test_ctrl_c_ends_all(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.type("\x03")
    terminal.until("SIGINT received, stopping")
    terminal.until("$ ")
    assert terminal.are_as_before()


def test_a_stopped_one_leaves_the_terminal_and_takes_it_again(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.type("\x1a")
    terminal.until("Stopped")
    terminal.until("$ ")
    assert terminal.are_as_before()
    terminal.type("echo typed by $((20 + 22))\n")
    terminal.until("typed by 42")
    terminal.type("fg\n")
    eventually(lambda: not terminal.are_as_before())
    terminal.type("s")
    terminal.until("process  state")
    terminal.type("q")
    terminal.until("stopped (rc")


def test_ctrl_z_leaves_the_terminal_as_it_was_to_shells_that_see_to_nothing(tmp_path: Path) -> None:
    command = procfile(tmp_path, one="sleep 1000")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(command[0], command)
    before = termios.tcgetattr(terminal)
    seen = b""
    while b"Keys:" not in seen:
        seen += os.read(terminal, 10_000)
    eventually(lambda: termios.tcgetattr(terminal) != before)
    os.write(terminal, b"\x1a")
    _, state = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(state)
    assert termios.tcgetattr(terminal) == before
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: termios.tcgetattr(terminal) != before)
    os.write(terminal, b"q")
    while b"stopped (rc" not in seen:
        seen += os.read(terminal, 10_000)
    _, state = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(state) == 130
    os.close(terminal)


def test_in_the_background_nothing_is_read_and_no_time_is_spent(open_terminal: Open) -> None:
    terminal = open_terminal()
    terminal.type("\x1a")
    terminal.until("Stopped")
    terminal.type("bg\n")
    terminal.until("one says")
    pid = terminal.at_work()
    used = processor_time(pid)
    terminal.type("echo sss $((1 + 1))\n")
    terminal.until("sss 2")
    assert terminal.are_as_before()
    time.sleep(1)
    assert processor_time(pid) - used < 0.5
    terminal.type("fg\n")
    eventually(lambda: not terminal.are_as_before())
    terminal.type("s")
    assert "process  state" in terminal.until("process  state")


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("command", [f"{APP} </dev/null", f"{APP} | cat", f"APP_ENV=production {APP}"])
def test_where_nobody_types_or_watches_there_are_no_keys(open_terminal: Open, command: str) -> None:
    terminal = open_terminal(command, until="Ctrl-C stops it.")
    assert "Keys:" not in terminal.until("one says" if "production" not in command else "\n")
    assert terminal.are_as_before()


def test_a_terminal_that_goes_away_ends_all(tmp_path: Path) -> None:
    command = procfile(tmp_path, one="sleep 1000")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(theirs)
    seen = b""
    while b"Keys:" not in seen:
        seen += os.read(ours, 10_000)
    os.close(ours)
    assert process.wait(PATIENCE) != 0
    eventually(lambda: not processes_in(tmp_path))
