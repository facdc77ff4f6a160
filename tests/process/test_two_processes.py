"""The example of two foreign processes: backend/process works without all the rest."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.process.running_scripts import ROOT, Start

EXAMPLE = ROOT / "examples/two-processes"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture
def script(tmp_path: Path) -> str:
    """The example, lifted out: only it and backend/process are there."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "backend/process", tmp_path / "backend/process")
    return str(tmp_path / "run.py")


def test_two_foreign_processes_run_on_backend_process_alone_and_end_with_ctrl_c(
    start: Start, script: str, tmp_path: Path
) -> None:
    running = start([sys.executable, script], PATH=PATH, PYTHONPATH=str(tmp_path))
    running.until("Both run.")
    while not (re.search(r"clock.* It is \d\d:\d\d:\d\d\.", running.seen) and "Serving HTTP on" in running.seen):
        running.until("\n", running.seen.count("\n") + 1)
    assert re.search(r"files.* Serving HTTP on", running.seen)
    assert running.end(signal.SIGINT) == 130
    assert running.nothing_is_left()
