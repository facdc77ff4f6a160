"""Gives the journeys a web service to talk to, processes of the server, and a look into the database of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.execution.engine import engine
from tests.journeys.environment import ROOT, settings_for
from tests.journeys.stub import Stub

__all__ = ["engine"]

Start = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server, server.answering():
        yield server


@pytest.fixture
def start(tmp_path: Path, free_port: Callable[[], int], database_url: str) -> Start:
    """`with start("executor"):` a process of the server."""
    variables = settings_for(tmp_path, free_port, TRUSTED_HOSTS="127.0.0.1", DATABASE_URL=database_url)
    variables |= {"NUM_GRAPH_WORKERS": "1"}

    @contextmanager
    def started(name: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen([sys.executable, "-m", f"backend.{name}"], cwd=ROOT, env=variables | more) as process:
            try:
                yield process
            finally:
                process.kill()

    return started
