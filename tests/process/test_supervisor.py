"""Several processes together: start, output, crashes, signals, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.process import status
from tests.process.running_scripts import ROOT, Running, Start, eventually, processes_in

TWO = """
    class Other(Server):
        name = "other"
    sys.exit(run_processes(Server(), Other()))
"""


def procfile(folder: Path, **lines: str) -> list[str]:
    """Write a Procfile; the command that runs it."""
    (folder / "Procfile").write_text("".join(f"{name}: {line}\n" for name, line in lines.items()))
    return [sys.executable, "-m", "backend"]


def ready(running: Running) -> Running:
    running.until("Ctrl-C stops it.")
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_in_order_with_the_status_of_the_signal(start: Start, number: int) -> None:
    running = ready(start(TWO))
    assert running.end(number) == 128 + number
    assert running.seen.count("served") == running.seen.count("cleaned up") == 2
    assert running.nothing_is_left()


def test_idle_processes_are_stopped_in_no_time(start: Start) -> None:
    running = ready(start(TWO))
    began = time.monotonic()
    running.end(signal.SIGINT)
    assert time.monotonic() - began < 5, "0.5 s on a machine that does nothing else"


def test_where_to_go_is_shown_once_all_are_ready(start: Start) -> None:
    running = start("""
        class Late(Server):
            name = "late"
            async def serve(self, stopping):
                while not os.path.exists("go"): await asyncio.sleep(0.01)
                self.ready(address="http://here", docs="http://here/docs")
                await stopping.wait()
        sys.exit(run_processes(Server(), Late()))
    """)
    running.until("serving")
    assert "Ready." not in running.seen
    (running.folder / "go").touch()
    shown = ready(running).seen
    assert "late       http://here\n" in shown
    assert "late docs  http://here/docs\n" in shown


@pytest.mark.parametrize("foreign", ["sleep 1000", "cd . && sleep 1000; true", "trap '' TERM; sleep 1000 & wait"])
def test_a_killed_supervisor_leaves_nothing_behind(start: Start, tmp_path: Path, foreign: str) -> None:
    own = f"{sys.executable} -c 'import own'"
    (tmp_path / "own.py").write_text("from backend.app import *\n")
    running = ready(start(procfile(tmp_path, own=f"{own}; sleep 1000", foreign=foreign)))
    assert len(processes_in(tmp_path)) >= 3
    assert running.end(signal.SIGKILL) == 137
    assert running.nothing_is_left()


def test_a_killed_supervisor_lets_its_processes_end_in_order(start: Start) -> None:
    running = ready(
        start("""
        class Orderly(Server):
            def cleanup(self): open(f"{os.environ['HONCHO_PROCESS_NAME']}.cleaned", "w").close()
        sys.exit(run_processes(Orderly(), Orderly()))
    """)
    )
    running.end(signal.SIGKILL)
    assert running.nothing_is_left()
    assert sorted(path.name for path in running.folder.glob("*.cleaned")) == ["server.1.cleaned", "server.2.cleaned"]


def test_children_die_with_the_supervisor_even_if_its_guard_was_killed(start: Start, tmp_path: Path) -> None:
    running = ready(start(procfile(tmp_path, foreign="sleep 1000")))
    for pid in processes_in(tmp_path):
        if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0guard\0"):
            os.kill(pid, signal.SIGKILL)
    running.end(signal.SIGKILL)
    assert running.nothing_is_left()


def test_one_that_ignores_sigterm_is_killed_after_the_grace(start: Start) -> None:
    running = ready(
        start("""
        from backend.process import child, signals
        signals.GRACE = 1000
        child.KILL_AFTER = 0.3
        class Deaf(Server):
            def stop(self): print("did not hear", flush=True)
        sys.exit(run_processes(Deaf(), reload=True))
    """)
    )
    assert running.end(signal.SIGTERM) == 143
    assert "did not hear" in running.seen
    assert running.nothing_is_left()


def test_a_second_ctrl_c_ends_all_at_once(start: Start) -> None:
    running = ready(
        start("""
        class Deaf(Server):
            def stop(self): print("did not hear", flush=True)
        sys.exit(run_processes(Deaf(), reload=True))
    """)
    )
    running.signal(signal.SIGTERM)
    running.until("did not hear")
    began = time.monotonic()
    assert running.end(signal.SIGINT) == 143
    assert time.monotonic() - began < 5
    assert running.nothing_is_left()


def test_ctrl_c_while_it_starts_leaves_nothing_behind(start: Start) -> None:
    for delay in (0.1, 0.2, 0.4):
        running = start(TWO)
        time.sleep(delay)  # wherever it is by then
        assert running.end(signal.SIGTERM) == 143
        assert running.nothing_is_left()


def test_a_failed_process_is_started_again_while_the_others_go_on(start: Start) -> None:
    running = ready(start(TWO))
    victim = int(running.seen.partition("other.1 started (pid=")[2].partition(")")[0])
    os.kill(victim, signal.SIGKILL)
    running.until("other.1 ended with status -9, starts again in 0.5 s")
    running.until("serving", times=3)
    assert running.end(signal.SIGINT) == 130
    assert running.seen.count("served") == 2


def test_each_crash_in_a_row_doubles_the_wait(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, broken="false"))
    running.until("ended with status 1, starts again in 0.5 s")
    running.until("ended with status 1, starts again in 1 s")
    assert running.end(signal.SIGINT) == 130


@pytest.mark.parametrize("given", [0, 1, 3])
def test_one_that_never_gets_ready_ends_everything_with_its_status(start: Start, given: int) -> None:
    running = start(f"""
        class Wrong(Server):
            name = "wrong"
            async def serve(self, stopping):
                os.write(2, b"AGENT_API_PORT is wrong" + os.linesep.encode())
                os._exit({given})
        sys.exit(run_processes(Server(), Wrong()))
    """)
    assert running.end() == (given or 1)
    assert running.seen.count("AGENT_API_PORT is wrong") == 1
    assert running.nothing_is_left()


def test_what_a_crashed_process_left_behind_goes_before_it_starts_again(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, leaky="(trap '' TERM; sleep 1000) & exit 1"))
    running.until("starts again in 1 s")
    asleep = [pid for pid in processes_in(tmp_path) if b"sleep\0001000" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(asleep) <= 1
    running.end(signal.SIGINT)
    assert running.nothing_is_left()


def test_two_hundred_thousand_lines_arrive_whole_in_order_and_attributed(start: Start, tmp_path: Path) -> None:
    script = "[print('line', number) for number in range(100_000)]; print('last, without an end', end='')"
    line = f'python -c "{script}"; sleep 1000'
    running = start(procfile(tmp_path, one=line, other=line), PYTHONUNBUFFERED="")
    running.until("line 99999\n", times=2)
    running.end(signal.SIGINT)
    expected = [*(f"line {number}" for number in range(100_000)), "last, without an end"]
    for name in ("one.1", "other.1"):
        lines = [line.split(" ", 1)[1] for line in running.seen.splitlines()]
        said = [line.partition("| ")[2] for line in lines if line.startswith(name)]
        assert said == expected


def test_a_line_of_a_megabyte_and_bytes_that_are_no_text_arrive(start: Start, tmp_path: Path) -> None:
    script = "import os; os.write(1, b'x' * 1_000_000 + b'end' + bytes([10, 0, 1, 255, 128, 10])); print('after')"
    running = start(procfile(tmp_path, odd=f'python -c "{script}"; sleep 1000'))
    running.until("after")
    running.end(signal.SIGINT)
    said = [line.partition("| ")[2] for line in running.seen.split("\n") if " odd.1 " in line.partition("|")[0]]
    assert said == ["x" * 1_000_000 + "end", "\0\1\ufffd\ufffd", "after"]


def test_what_a_grandchild_says_after_the_end_of_its_parent_is_heard_and_holds_nothing_up(
    start: Start, tmp_path: Path
) -> None:
    late = "until [ -e go ]; do sleep 0.05; done; echo late"
    running = start(procfile(tmp_path, parent=f"setsid sh -c '{late}' & sleep 0.3; exit 1"))
    running.until("starts again in")
    (tmp_path / "go").touch()
    assert "parent.1 | late\n" in running.until("late")
    (tmp_path / "go").unlink()
    running.until("starts again in", times=2)
    began = time.monotonic()
    running.end(signal.SIGINT)
    assert time.monotonic() - began < 5
    (tmp_path / "go").touch()  # it had left the group: nobody's child any more
    assert running.nothing_is_left()


def test_json_of_a_process_is_text_for_people_in_development(start: Start, tmp_path: Path) -> None:
    line = """echo '{"level":30,"msg":"it listens","port":80}'; sleep 1000"""
    assert "| info it listens port=80\n" in start(procfile(tmp_path, node=line)).until("it listens")


def test_colours_of_a_process_are_left_out_where_there_is_no_terminal(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, red="printf '\\033[31mred\\033[0m seen\\n'; sleep 1000"))
    assert "| red seen\n" in running.until("seen")


def test_a_flood_neither_grows_memory_nor_holds_up_others_or_the_end(start: Start, tmp_path: Path) -> None:
    command = procfile(tmp_path, flood="yes", other="while sleep 0.1; do echo tick; done")
    running = start(["/bin/sh", "-c", f"{' '.join(command)} | grep --line-buffered tick"])
    running.until("tick", times=10)
    [supervisor] = [each.pid for each in status.read(tmp_path / ".data/run") if each.name == "app"]
    peak = int(Path(f"/proc/{supervisor}/status").read_text().partition("VmHWM:")[2].split()[0])
    assert peak < 120_000, "kB"
    began = time.monotonic()
    os.kill(supervisor, signal.SIGINT)
    running.end()
    assert time.monotonic() - began < 8
    assert running.nothing_is_left()


def test_what_is_no_utf8_is_shown_as_far_as_it_goes(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, odd="printf 'caf\\351 ol\\303\\251\\n'; sleep 1000"))
    assert "caf\ufffd olé\n" in running.until("olé")


def test_python_in_a_procfile_is_this_interpreter(start: Start, tmp_path: Path) -> None:
    line = "python -c 'import sys; print(sys.executable)'; sleep 1000"
    assert f"| {sys.executable}\n" in start(procfile(tmp_path, which=line), PATH="/usr/bin:/bin").until(sys.executable)


COLOURS = 'python -c \'import os; print("\\033[31mred", os.environ.get("FORCE_COLOR"), "seen")\'; sleep 1000'


def test_without_a_terminal_there_is_no_colour(start: Start, tmp_path: Path) -> None:
    running = start(procfile(tmp_path, colours=COLOURS))
    assert "\033" not in running.until("None seen")


@pytest.mark.parametrize(("no_color", "expected"), [("", "1 seen"), ("1", "None seen")])
def test_on_a_terminal_there_is_colour_unless_unwanted(tmp_path: Path, no_color: str, expected: str) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": no_color}
    environment.pop("FORCE_COLOR", None)
    process = subprocess.Popen(procfile(tmp_path, colours=COLOURS), cwd=tmp_path, env=environment, stdout=theirs)
    os.close(theirs)
    seen = b""
    while expected.encode() not in seen:
        seen += os.read(ours, 10_000)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        eventually(lambda: process.poll() is not None)
    os.close(ours)
    assert (b"\033[" in seen) == (b"| \033[0m\033[31mred" in seen) == (not no_color)


def test_in_production_every_line_is_json(start: Start, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "import asyncio, logging, sys\n"
        "from backend.app import run_processes\n"
        "from backend.process.process import AsyncAppProcess\n"
        "class Server(AsyncAppProcess):\n"
        "    name = 'server'\n"
        "    async def serve(self, stopping):\n"
        "        logging.getLogger('x').warning('attention', extra={'run': 7})\n"
        "        self.ready()\n"
        "        await stopping.wait()\n"
        "sys.exit(run_processes(Server()))\n"
    )
    running = ready(start(procfile(tmp_path, server="python server.py"), APP_ENV="production"))
    running.until("attention")
    running.end(signal.SIGTERM)
    lines = [json.loads(line) for line in running.seen.splitlines()]
    [told] = [line for line in lines if line["event"] == "attention"]
    assert (told["process"], told["level"], told["run"]) == ("server", "warning", 7)


def test_when_nobody_reads_any_more_all_end(start: Start, tmp_path: Path) -> None:
    command = procfile(tmp_path, chatty="while sleep 0.05; do echo tick; done")
    running = start(["/bin/bash", "-o", "pipefail", "-c", f"{' '.join(command)} | head -n 3"])
    assert running.end() == 141
    assert running.nothing_is_left()


def test_each_process_has_a_log_file_where_wanted_and_its_lines_reload_nothing(start: Start, tmp_path: Path) -> None:
    command = procfile(tmp_path, chatty="for i in 1 2 3; do echo tick $i; sleep 0.2; done; echo all; sleep 1000")
    running = start(command, LOG_DIR="logs")
    running.until("all")
    running.end(signal.SIGINT)
    logged = (tmp_path / "logs/chatty.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in logged] == ["tick 1", "tick 2", "tick 3", "all"]
    assert "Ready." in (tmp_path / "logs/system.log").read_text()


def test_the_log_folder_is_no_code(start: Start, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    running = ready(start(procfile(tmp_path, own="python -c 'import time; time.sleep(1000)'"), LOG_DIR="./logs"))
    (tmp_path / "logs/not_code.py").touch()
    (tmp_path / "code.py").write_text("\n")
    assert "(code.py)" in running.until("Reloaded own")
    running.end(signal.SIGINT)
    assert running.seen.count("Reloaded") == 1


def test_a_full_disk_below_the_output_costs_the_lines_and_nothing_else(tmp_path: Path) -> None:
    command = procfile(tmp_path, talks="echo hello; sleep 1000")
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full, stderr=subprocess.PIPE
        )
    eventually(lambda: len(processes_in(tmp_path)) >= 4)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=40)
    assert (process.returncode, complaint) == (130, b"")
    eventually(lambda: not processes_in(tmp_path))


def test_a_stopped_process_ends_in_order_too(start: Start) -> None:
    running = ready(start(TWO))
    os.kill(int(running.seen.partition("other.1 started (pid=")[2].partition(")")[0]), signal.SIGSTOP)
    assert running.end(signal.SIGINT) == 130
    assert running.seen.count("served") == running.seen.count("cleaned up") == 2
