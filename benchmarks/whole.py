"""The whole environment of this project: by its own command, and by plain `honcho start` of the same Procfile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from backend.process import status
from backend.process.process import State
from benchmarks.commands import BIN, ROOT, environment, free_port, running

PROCESSES = {"db", "rest", "websocket", "executor", "scheduler", "notifier"}
OURS = [sys.executable, "-m", "backend"]
HONCHO = [BIN / "honcho", "start"]
# Seconds to start, on a machine that does much else.
PATIENCE = 60.0


@contextmanager
def started(command: list[str | Path], data: Path, port: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run it in the data folder `data`, the REST API on `port`; every process is ready when this is entered."""
    port = port or free_port()
    variables = environment(
        AGENT_API_PORT=str(port), WEBSOCKET_SERVER_PORT=str(free_port()), DATA_DIR=str(data), APP_ENV="development"
    )
    with running(command, ROOT, variables, subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while not (_all_running(data / "run") and _answers(port)):
            assert process.poll() is None, f"{command} ended with status {process.returncode}"
            assert time.monotonic() < deadline, f"{command} was not ready after {PATIENCE:g} s"
            time.sleep(0.005)
        yield process


def _all_running(folder: Path) -> bool:
    ready = {each.name for each in status.read(folder) if each.state is State.RUNNING}
    return ready >= PROCESSES


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
