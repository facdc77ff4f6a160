"""The commands of docs/production.md, run in their order: with a folder instead of /etc, and ports of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from tests.journeys.environment import PATIENCE, ROOT, processes_with, settings_for, until

DOCUMENT = (ROOT / "docs/production.md").read_text(encoding="utf-8")
PROCESSES = {"db", "rest", "websocket", "executor", "scheduler", "notifier"}
# There is no systemd to talk to where tests run: what it would load is checked, what it would enable is enabled.
SYSTEMCTL = """#!/bin/sh
case "$*" in
daemon-reload) exec systemd-analyze verify "$UNITS"/* ;;
"enable --now agent-server.target") exec {systemctl} --root="$SYSTEM" enable agent-server.target ;;
*) echo "what is $*?"; exit 1 ;;
esac
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where to write to: short enough for a socket."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


class Shell:
    """Runs commands of the document, whose `export/` is a folder of the test."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.variables = variables

    def run(self, command: str) -> str:
        own = re.sub(r"invoke export (\w+)", rf"\g<0> --to {self.folder}/\1", command)
        own = re.sub(r"\bexport/", f"{self.folder}/", own).replace("/etc/systemd/system", f"{self.folder}/etc")
        found = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", own],
            cwd=ROOT,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert found.returncode == 0, f"{own}\n{found.stdout}{found.stderr}"
        return found.stdout


@pytest.fixture
def shell(folder: Path, tmp_path: Path, free_port: Callable[[], int]) -> Shell:
    return Shell(folder, settings_for(tmp_path, free_port))


def commands(heading: str) -> list[str]:
    """The commands below a heading."""
    chapter = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\$ (.*)$", chapter, re.MULTILINE)


def test_the_commands_for_systemd_install_what_it_takes(shell: Shell, folder: Path, tmp_path: Path):
    systemctl = shutil.which("systemctl")
    if not systemctl or not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemctl or systemd-analyze: install systemd")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "systemctl").write_text(SYSTEMCTL.format(systemctl=systemctl))
    for program in programs.iterdir():
        program.chmod(0o755)
    units = tmp_path / "system/etc/systemd/system"
    units.mkdir(parents=True)
    (folder / "etc").symlink_to(units)
    shell.variables |= {
        "PATH": f"{programs}{os.pathsep}{shell.variables['PATH']}",
        "UNITS": str(units),
        "SYSTEM": str(tmp_path / "system"),
    }
    for command in commands("systemd"):
        shell.run(command)
    assert (units / "multi-user.target.wants/agent-server.target").is_symlink()


def test_the_commands_for_supervisord_start_show_and_end_everything(shell: Shell):
    export, start, status, shutdown = commands("supervisord")
    shell.run(export)
    shell.run(start)
    try:
        address = f"http://127.0.0.1:{shell.variables['AGENT_API_PORT']}/readyz"
        until(lambda: answers(address))
        shown = until(lambda: (text := shell.run(f"{status} || true")).count("RUNNING") == len(PROCESSES) and text)
        assert {line.split()[0] for line in shown.splitlines()} == PROCESSES
        shell.run(status)
        shell.run(shutdown)
        until(lambda: processes_with(shell.variables) == [])
    finally:
        for pid in processes_with(shell.variables):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=PATIENCE).ok
    except requests.ConnectionError:
        return False


@pytest.mark.timeout(1800)
def test_the_commands_for_compose_start_and_end_everything(shell: Shell):
    export, password, key, up, down = commands("compose")
    shell.run(export)
    shell.run(password)
    shell.run(key)
    assert re.fullmatch(
        r"POSTGRES_PASSWORD=[0-9a-f]{32}\nENCRYPTION_KEY=[\w+/]{43}=\n", (shell.folder / "compose/.env").read_text()
    )
    for needed in ("docker info", "docker compose version"):
        if subprocess.run(needed.split(), capture_output=True, check=False).returncode if shutil.which("docker") else 1:
            pytest.skip(f"`{needed}` fails here: the containers were not started")
    shell.variables["COMPOSE_PROJECT_NAME"] = f"agent-server-test-{os.getpid()}"
    try:
        shell.run(up)
        assert answers(f"http://127.0.0.1:{shell.variables['AGENT_API_PORT']}/readyz")
    finally:
        shell.run(f"{down} --volumes")
