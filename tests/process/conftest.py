"""Fixtures that start real processes and see to it that none survives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.running_scripts import Running, Start, python


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command (a list) or a script that finds `Server` and `run_processes` defined (see running_scripts.py)."""
    started: list[Running] = []

    def start(what: str | list[str], **environment: str) -> Running:
        started.append(Running(python(what) if isinstance(what, str) else what, tmp_path, **environment))
        return started[-1]

    yield start
    for running in started:
        running.kill_all()
