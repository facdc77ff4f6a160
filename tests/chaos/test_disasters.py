"""The database goes away, the disk is full: runs wait, go on, and nobody is taken for dead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.process import roster
from backend.store.bundled import Bundled, dsn
from backend.store.executors import DEAD_AFTER
from tests.journeys.environment import PATIENCE, ROOT, Environment, settings_for, started, until
from tests.journeys.stub import Stub, requests_one_by_one

# Seconds. An executor that says nothing for so long is dead.
AWAY = float(os.environ.get("DATABASE_AWAY", 2 * DEAD_AFTER))

StartProcess = Callable[[str], AbstractContextManager[None]]


class Database:
    """A PostgreSQL that comes and goes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._server = Bundled(self._folder, durable=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "database")
    yield database
    database.stop()


@pytest.fixture
def variables(tmp_path: Path, free_port: Callable[[], int]) -> dict[str, str]:
    url = dsn(tmp_path / "database")
    return settings_for(tmp_path, free_port, APP_ENV="production", TRUSTED_HOSTS="127.0.0.1", DATABASE_URL=url)


@pytest.fixture
def server(database: Database, variables: dict[str, str]) -> Iterator[Environment]:
    """The REST API, on a database that it was given."""
    with started(variables, sys.executable, "-m", "backend.rest") as environment:
        yield environment


@pytest.fixture
def process(server: Environment) -> StartProcess:
    """`with process("executor"):` a process beside it, that has to live to the end."""

    @contextmanager
    def start(name: str) -> Iterator[None]:
        command = [sys.executable, "-m", f"backend.{name}"]
        with subprocess.Popen(command, cwd=ROOT, env=server.variables) as running:
            try:
                yield
                assert running.poll() is None
            finally:
                running.kill()

    return start


def start(server: Environment, graph: dict[str, Any], **inputs: Any) -> str:
    return server.post(f"/api/v2/graphs/{graph['id']}/runs", {"inputs": inputs})["id"]


def ended(server: Environment, run_id: str) -> dict[str, Any]:
    return until(lambda: (found := server.get(f"/api/v2/runs/{run_id}"))["ended_at"] and found)


@pytest.mark.timeout(AWAY + 2 * PATIENCE)
def test_a_database_that_is_long_away_costs_nobody_anything_but_the_wait(
    database: Database, server: Environment, process: StartProcess, stub: Stub
):
    with process("executor"), process("scheduler"):
        graph = server.post("/api/v2/graphs", requests_one_by_one(stub))
        stub.gate.clear()
        run_id = start(server, graph, items=["a", "b"])
        until(lambda: len(stub.received) == 2)
        database.stop()
        stub.gate.set()
        for method, path in ("POST", f"/api/v2/graphs/{graph['id']}/runs"), ("GET", f"/api/v2/runs/{run_id}"):
            refused = requests.request(method, server.address + path, json={}, headers=server.headers, timeout=PATIENCE)
            assert (refused.status_code, refused.json()["code"]) == (503, "database_away")
            assert refused.headers["Content-Type"] == "application/problem+json"
        assert server.get("/livez") == {"status": "ok"}
        time.sleep(AWAY)
        database.start()
        until(lambda: requests.get(server.address + "/readyz", timeout=PATIENCE).ok)
        run = ended(server, run_id)
        assert (run["status"], run["attempt"]) == ("COMPLETED", 1), "its executor was not taken for dead"
        assert len(stub.received) == 2
        assert server.run(graph, items=["c"])["status"] == "COMPLETED"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder with room for little more than a new database."""
    folder = tmp_path / "data"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m,mode=755", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', error)}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_runs_wait_while_the_disk_is_full_and_nothing_ends(small_disk: Path, free_port: Callable[[], int], tmp_path):
    variables = settings_for(small_disk.parent, free_port, APP_ENV="production")
    with (tmp_path / "output").open("wb") as output, started(variables, output=output) as server:
        graph = server.post("/api/v2/graphs", (ROOT / "examples/word-count.json").read_bytes())
        accepted = [start(server, graph, Text="one two")]
        with full(small_disk):
            path = f"{server.address}/api/v2/graphs/{graph['id']}/runs"
            ask = partial(
                requests.post,
                path,
                headers=server.headers,
                json={"inputs": {"Text": "word " * 10_000}},
                timeout=PATIENCE,
            )
            while (answer := ask()).status_code == 202:
                accepted.append(answer.json()["id"])
            assert (answer.status_code, answer.json()["code"]) == (503, "database_away")
            assert server.get(f"/api/v2/runs/{accepted[0]}")["id"] == accepted[0], "what is there can be read"
        assert {ended(server, run_id)["status"] for run_id in accepted} == {"COMPLETED"}
        told = roster.read(small_disk / "run")
        assert told
        assert {unit.name: unit.crashes for unit in told.units if unit.crashes} == {}


@contextmanager
def full(folder: Path) -> Iterator[None]:
    filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        with suppress(OSError):  # no space left
            while True:
                os.write(filler, b"x" * 4096)
        yield
    finally:
        os.close(filler)
        (folder / "filler").unlink()
