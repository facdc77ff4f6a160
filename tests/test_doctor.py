"""`invoke doctor` finds what would hurt, and says what to do about it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def examine(data_dir: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Exit status and findings by subject."""
    ports = {"AGENT_API_PORT": "0", "WEBSOCKET_SERVER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "backend.doctor", "--json"],
        env=os.environ | ports | {"DATA_DIR": str(data_dir)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    return result.returncode, {finding["about"]: finding for finding in json.loads(result.stdout)}


def test_a_sound_machine_has_nothing_to_fear(tmp_path: Path) -> None:
    status, findings = examine(tmp_path)

    assert [finding for finding in findings.values() if finding["level"] == "fail"] == []
    assert status == 0
    assert "started and stopped" in findings["database"]["found"]
    assert list(tmp_path.iterdir()) == []  # the trial left nothing


def test_a_taken_port_is_named_with_its_owner_and_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, findings = examine(tmp_path, AGENT_API_PORT=str(port))

    assert status == 1
    assert findings["ports"]["level"] == "fail"
    assert f"127.0.0.1:{port} cannot be had (Address already in use)" in findings["ports"]["found"]
    assert f"by pid {os.getpid()} (" in findings["ports"]["found"]
    assert "AGENT_API_PORT" in findings["ports"]["remedy"]


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    status, findings = examine(tmp_path / "file" / "data")

    assert status == 1
    assert findings["data folder"]["level"] == "fail"
    assert "DATA_DIR" in findings["data folder"]["remedy"]


def test_an_external_database_that_answers_is_well(tmp_path: Path, postgres: str) -> None:
    _, findings = examine(tmp_path, DATABASE_URL=postgres)

    assert findings["database"]["level"] == "ok"
    assert "DATABASE_URL answers, PostgreSQL 18" in findings["database"]["found"]


def test_an_external_database_that_does_not_answer_is_a_fault(tmp_path: Path) -> None:
    status, findings = examine(tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")

    assert status == 1
    assert findings["database"]["level"] == "fail"
    assert "DATABASE_URL" in findings["database"]["remedy"]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_wrong_setting_is_the_only_finding(tmp_path: Path, arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "backend.doctor", *arguments],
        env=os.environ | {"DATA_DIR": str(tmp_path), "AGENT_API_PORT": "eight"},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 1
    assert "AGENT_API_PORT" in result.stdout
    assert result.stderr == ""


def test_few_open_files_are_a_warning_only(tmp_path: Path) -> None:
    command = f"ulimit -n 256 && exec {sys.executable} -m backend.doctor"
    environment = os.environ | {"DATA_DIR": str(tmp_path), "AGENT_API_PORT": "0", "WEBSOCKET_SERVER_PORT": "0"}
    result = subprocess.run(["sh", "-c", command], env=environment, stdout=subprocess.PIPE, text=True)

    assert "warn  open files  at most 256 in a process\n" in result.stdout
    assert result.returncode == 0
