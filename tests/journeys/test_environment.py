"""The whole environment as people start, look at, hurt and end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.journeys.environment import PATIENCE, ROOT, processes_with, settings_for, started, until

APP = (sys.executable, "-m", "backend")
HONCHO = (str(Path(sys.executable).with_name("honcho")), "start")
PROCESSES = {"db", "rest", "websocket", "executor", "scheduler", "notifier"}


@pytest.fixture
def variables(tmp_path: Path, free_port: Callable[[], int]) -> dict[str, str]:
    return settings_for(tmp_path, free_port, APP_ENV="production")


def nothing_left(variables: dict[str, str]) -> bool:
    return processes_with(variables) == []


def test_every_process_can_be_seen_from_outside(variables: dict[str, str]):
    with started(variables, *APP) as environment:
        seen = environment.status()
        assert {name: process["state"] for name, process in seen.items()} == dict.fromkeys(
            PROCESSES | {"app"}, "running"
        )
        assert seen["rest"]["address"] == environment.address
        assert {process["name"] for process in environment.get("/readyz")["processes"]} >= PROCESSES
        titles = Path(f"/proc/{seen['executor']['pid']}/cmdline").read_text()
        assert titles.startswith("agent-server: executor")


@pytest.mark.parametrize(("signal_number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", [APP, HONCHO], ids=["backend", "honcho"])
def test_a_signal_ends_everything_and_the_status_tells_which(variables, command, signal_number, status):
    with started(variables, *command) as environment:
        environment.process.send_signal(signal_number)
        environment.process.communicate(timeout=PATIENCE)
        assert environment.process.returncode == status
        assert nothing_left(variables)


@pytest.mark.parametrize("command", [APP, HONCHO], ids=["backend", "honcho"])
def test_nothing_outlives_a_killed_supervisor(variables: dict[str, str], command: tuple[str, ...]):
    with started(variables, *command) as environment:
        environment.process.kill()
        until(lambda: nothing_left(variables))


def test_what_was_stored_is_there_after_a_restart(variables: dict[str, str]):
    with started(variables, *APP) as environment:
        graph = environment.post("/api/v2/graphs", (ROOT / "examples/word-count.json").read_bytes())
        run = environment.run(graph, Text="one two")
    with started(variables, *APP) as environment:
        again = environment.get(f"/api/v2/runs/{run['id']}")
    assert again == run
    assert again["outputs"] == {"Answer": ["2 words, 7 characters"]}


def test_stop_ends_what_runs_in_this_folder(variables: dict[str, str]):
    with started(variables, *APP) as environment:
        assert environment.control("stop").returncode == 0
        until(lambda: nothing_left(variables))
        stopped = environment.control("status")
    assert stopped.returncode == 1
    assert "Nothing runs in" in stopped.stderr


def test_a_second_environment_in_the_same_folder_says_who_is_there(variables: dict[str, str]):
    with started(variables, *APP) as environment:
        second = environment.python("-m", "backend")
        assert second.returncode == 1
        assert f"is in use by pid {environment.process.pid}" in second.stderr
        assert len(second.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_told_with_its_holder_and_the_setting(variables: dict[str, str], tmp_path: Path):
    with started(variables, *APP) as environment:
        other = variables | {"DATA_DIR": str(tmp_path / "other")}
        command = [sys.executable, "-m", "backend.rest"]
        rest = subprocess.run(command, cwd=ROOT, env=other, capture_output=True, text=True, timeout=PATIENCE)
        assert rest.returncode == 1
        # The supervisor holds the socket, for the next process to take over.
        holder = f"pid {environment.process.pid} ({sys.executable} -m backend)"
        assert f"port {variables['AGENT_API_PORT']} is taken by {holder}" in rest.stderr
        assert "AGENT_API_PORT" in rest.stderr
        assert "Traceback" not in rest.stderr


def test_one_more_executor_works_on_the_same_database(variables: dict[str, str], tmp_path: Path):
    with started(variables, *APP) as environment:
        other = variables | {"DATA_DIR": str(tmp_path / "other"), "DATABASE_URL": database_of(variables)}
        with subprocess.Popen([sys.executable, "-m", "backend.executor"], cwd=ROOT, env=other) as second:
            os.kill(environment.status()["executor"]["pid"], signal.SIGSTOP)
            graph = environment.post("/api/v2/graphs", (ROOT / "examples/word-count.json").read_bytes())
            runs = [environment.run(graph, Text="one") for _ in range(2)]
            second.terminate()
    assert [run["status"] for run in runs] == ["COMPLETED"] * 2


def database_of(variables: dict[str, str]) -> str:
    command = "from backend.store import bundled; from pathlib import Path; import os, sys;"
    command += "sys.stdout.write(bundled.dsn(Path(os.environ['DATA_DIR'])))"
    return subprocess.check_output([sys.executable, "-c", command], cwd=ROOT, env=variables, text=True)


def test_the_database_may_be_killed_and_comes_back(variables: dict[str, str]):
    with started(variables, *APP) as environment:
        graph = environment.post("/api/v2/graphs", (ROOT / "examples/word-count.json").read_bytes())
        before = environment.status()["db"]["pid"]
        os.kill(before, signal.SIGKILL)
        until(lambda: environment.status()["db"]["pid"] != before)
        until(lambda: requests.get(environment.address + "/readyz", timeout=PATIENCE).ok)
        assert environment.run(graph, Text="one")["status"] == "COMPLETED"
