"""The whole environment, started for real in a folder of its own, and the means to use and to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import requests

ROOT = Path(__file__).parents[2]
# Seconds. Far more than it takes, for a machine that is busy with other tests.
PATIENCE = 40.0


@dataclass
class Environment:
    """A running `python -m backend`, or anything else that serves the API of `variables`."""

    process: subprocess.Popen[str]
    variables: dict[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.variables['AGENT_API_PORT']}"

    @property
    def headers(self) -> dict[str, str]:
        """The key, which the environment is given where it needs one."""
        return {"X-API-Key": self.variables["AGENT_API_KEY"]} if "AGENT_API_KEY" in self.variables else {}

    def get(self, path: str, **options: Any) -> Any:
        return answer(requests.get(self.address + path, headers=self.headers, timeout=PATIENCE, **options))

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Content-Type": "application/json", **self.headers}
        return answer(requests.post(self.address + path, data=data, headers=headers, timeout=PATIENCE, **options))

    def run(self, graph: dict[str, Any], **inputs: Any) -> Any:
        """Run a stored graph and wait for its end."""
        return self.post(f"/api/v2/graphs/{graph['id']}/runs?wait=30", {"inputs": inputs})

    def status(self) -> dict[str, Any]:
        """What `invoke status --json` tells, by process."""
        found = self.control("status", "--json")
        return {process["name"]: process for process in orjson.loads(found.stdout)}

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "backend.control", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.variables, capture_output=True, text=True, timeout=PATIENCE)


def answer(response: requests.Response) -> Any:
    assert response.ok, response.text
    return response.json()


def settings_for(folder: Path, free_port: Callable[[], int], **more: str) -> dict[str, str]:
    """An environment in which everything is this test's own."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "NO_COLOR", "FORCE_COLOR")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ports = {"AGENT_API_PORT": str(free_port()), "WEBSOCKET_SERVER_PORT": str(free_port())}
    # Titles of processes are not to cover their environment, by which they are found.
    found_by = {"SPT_NOENV": "1"}
    secrets = {"AGENT_API_KEY": f"agpt_{'k' * 40}", "ENCRYPTION_KEY": f"{'k' * 43}="} if "APP_ENV" in more else {}
    return clean | ports | found_by | secrets | {"DATA_DIR": str(folder / "data"), "PATH": path} | more


@contextmanager
def started(
    variables: dict[str, str], *command: str, folder: Path = ROOT, output: int | IO[bytes] = subprocess.PIPE
) -> Iterator[Environment]:
    """Start a command, wait until the API is ready, and make sure that it ends.

    One that says more than a pipe holds needs a file as its `output`.
    """
    process = subprocess.Popen(
        command or (sys.executable, "-m", "backend"),
        cwd=folder,
        env=variables,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    environment = Environment(process, variables)
    try:
        until(lambda: ready(environment))
        yield environment
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def ready(environment: Environment) -> bool:
    assert environment.process.poll() is None, environment.process.communicate()[0]
    try:
        return requests.get(environment.address + "/readyz", timeout=PATIENCE).ok
    except requests.ConnectionError:
        return False


def until(happened: Callable[[], Any]) -> Any:
    """Ask until it is so: for what happens in other processes and is told to nobody."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def processes_with(variables: dict[str, str]) -> list[int]:
    """The processes that work on the data folder of these settings, found by their environment."""
    mark = f"DATA_DIR={variables['DATA_DIR']}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0") and (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
