"""Saves while the whole server is at work: no request fails, no run is lost, no stream has a gap."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journeys.environment import ROOT, Environment, settings_for, started, until

# What is saved, and who has read it: code of one process, of several, and of all with the database.
READERS = {
    "backend/api/health.py": {"rest", "websocket"},
    "backend/execution/run.py": {"executor"},
    "backend/store/runs.py": {"rest", "websocket", "executor", "scheduler"},
    "backend/settings.py": {"db", "rest", "websocket", "executor", "scheduler", "notifier"},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, to be edited."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Procfile", folder)
    return folder


class Client(threading.Thread):
    """Asks all the time, over one connection that is kept or a new one each time, and repeats nothing."""

    def __init__(self, port: int, *, keep: bool) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.enough = threading.Event()
        self._port = port
        self._keep = keep

    def run(self) -> None:
        connection = self._connect()
        while not self.enough.wait(0.01):
            try:
                connection.request("GET", "/api/v2/graphs")
                response = connection.getresponse()
                response.read()
                assert response.status == 200, response.status
                self.answered += 1
            except (OSError, AssertionError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            if not self._keep or response.will_close or self.failures:
                connection.close()
                connection = self._connect()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)


def reloads_of(environment: Environment) -> dict[str, int]:
    return {name: process["reloads"] for name, process in environment.status().items() if name != "app"}


def test_no_request_fails_while_code_is_saved(project: Path, tmp_path: Path, free_port: Callable[[], int]) -> None:
    variables = settings_for(tmp_path, free_port, APP_ENV="development", PYTHONPATH=str(project))
    with started(variables, folder=project) as environment:
        postmaster = int((tmp_path / "data/postgres/postmaster.pid").read_text().split()[0])
        clients = [Client(int(variables["AGENT_API_PORT"]), keep=keep) for keep in (True, False)]
        for client in clients:
            client.start()
        for file, readers in READERS.items():
            before = reloads_of(environment)
            (project / file).write_text((project / file).read_text() + "\n")
            expected = {name: reloads + (name in readers) for name, reloads in before.items()}
            until(lambda expected=expected: reloads_of(environment) == expected)
        for client in clients:
            client.enough.set()
            client.join()
        assert [client.failures for client in clients] == [[], []]
        assert min(client.answered for client in clients) > 10
        assert int((tmp_path / "data/postgres/postmaster.pid").read_text().split()[0]) == postmaster
