"""What is known from outside of processes that run, and of those that did."""

from __future__ import annotations

import json
import os
from pathlib import Path

from backend.process.process import State
from backend.process.status import read, started


def tell(folder: Path, name: str, pid: int, since: float) -> None:
    fields = {"name": name, "state": "running", "pid": pid, "since": since, "address": None, "error": None}
    (folder / f"{name}.{pid}.json").write_text(json.dumps(fields | {"started": started(pid) or "0"}))


def test_of_several_that_are_gone_the_last_is_told(tmp_path: Path):
    for since, pid in enumerate((2**22, 2**22 + 1, 2**22 + 2)):
        tell(tmp_path, "rest", pid, since)
    [status] = read(tmp_path)
    assert (status.pid, status.state) == (2**22 + 2, State.STOPPED)


def test_one_that_runs_is_told_instead_of_its_predecessors(tmp_path: Path):
    tell(tmp_path, "rest", 2**22, 5)
    tell(tmp_path, "rest", os.getpid(), 1)
    [status] = read(tmp_path)
    assert (status.pid, status.state) == (os.getpid(), State.RUNNING)


def test_a_half_written_file_is_no_process(tmp_path: Path):
    (tmp_path / "rest.1.json").write_text('{"name": "rest", "sta')
    assert read(tmp_path) == []
