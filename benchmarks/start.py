"""Seconds from the command to every process ready; beside it plain `honcho start` of the same Procfile."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from backend.process import status
from backend.process.process import State
from benchmarks.measure import Figure

ROOT = Path(__file__).parents[1]
PROCESSES = {"db", "rest", "websocket", "executor", "scheduler"}
OURS = [sys.executable, "-m", "backend.app"]
HONCHO = [str(Path(sys.executable).with_name("honcho")), "start"]


async def measure(rounds: int) -> list[Figure]:
    return await asyncio.to_thread(_measure, rounds)


def _measure(rounds: int) -> list[Figure]:
    found: dict[str, list[float]] = {name: [] for name in ("ours", "honcho", "first", "stop")}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        for _ in range(rounds):
            shutil.rmtree(data, ignore_errors=True)
            found["first"].append(_once(OURS, data)[0])
            start, stop = _once(OURS, data)
            found["ours"].append(start)
            found["stop"].append(stop)
            found["honcho"].append(_once(HONCHO, data)[0])
    return [
        Figure("this server, start with its data folder there", "s", found["ours"]),
        Figure("honcho start of the same Procfile", "s", found["honcho"]),
        Figure("this server, first start in an empty folder", "s", found["first"]),
        Figure("this server, SIGINT to nothing left", "s", found["stop"]),
    ]


def _once(command: list[str], data: Path) -> tuple[float, float]:
    """Seconds to start, and to stop."""
    ports = {"AGENT_API_PORT": str(_free_port()), "WEBSOCKET_SERVER_PORT": str(_free_port())}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ports | {"DATA_DIR": str(data), "APP_ENV": "development", "PATH": path}
    environment.pop("DATABASE_URL", None)
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (_all_running(data / "run") and _answers(ports["AGENT_API_PORT"])):
            assert process.poll() is None, f"{command} ended with status {process.returncode}"
            time.sleep(0.005)
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.wait()
        return started - began, time.perf_counter() - started
    finally:
        process.kill()


def _all_running(folder: Path) -> bool:
    running = {each.name for each in status.read(folder) if each.state is State.RUNNING}
    return running >= PROCESSES


def _answers(port: str) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return answer.status == 200
    except (HTTPError, URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
