"""From one version of the code to the next while work goes on: both work on the newer schema side by side."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self
from uuid import UUID

import pytest
import requests

from backend.store.upgrade import NEWEST
from tests.execution.engine import Engine
from tests.journeys.environment import PATIENCE, ROOT, Environment, settings_for, started, until
from tests.journeys.stub import INPUT, OUTPUT

CALCULATOR = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
ADDS = '"Add": (a + b, "+")'
ADDS_A_THOUSAND_MORE = '"Add": (a + b + 1000, "+")'
NEXT = f"{int(NEWEST) + 1:04}"
MIGRATION = f'''
from alembic import op

revision = "{NEXT}"
down_revision = "{NEWEST}"


def upgrade():
    for table in ("graphs", "runs", "run_events", "reviews", "executors"):
        op.execute(f"ALTER TABLE {{table}} ADD COLUMN colour text NOT NULL DEFAULT 'blue'")
'''

CHAIN = {
    "name": "chain",
    "nodes": [
        {"id": "n0", "block_id": INPUT, "input_default": {"name": "a"}},
        *({"id": f"n{n}", "block_id": CALCULATOR, "input_default": {"operation": "Add", "b": 1}} for n in (1, 2, 3)),
        {"id": "n4", "block_id": OUTPUT, "input_default": {"name": "sum"}},
    ],
    "links": [
        {"source_id": f"n{n}", "source_name": "result", "sink_id": f"n{n + 1}", "sink_name": "value" if n == 3 else "a"}
        for n in range(4)
    ],
}


SUM_OF_OLD, SUM_OF_NEW = 3, 3003
HAS_SUM = "SELECT EXISTS (SELECT FROM run_events WHERE type = 'run.output' AND data ->> 'value' = $1)"
WHAT_HAPPENED = """
    SELECT run_id, min(status),
        count(*) FILTER (WHERE type = 'node.started'), count(*) FILTER (WHERE type = 'node.completed'),
        count(*) FILTER (WHERE type = 'run.completed'), max(number) = count(*)
    FROM runs JOIN run_events ON runs.id = run_id GROUP BY run_id
"""

REST = (sys.executable, "-m", "backend.rest")


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """A copy of the code in which a block does something else, and which adds a column to every table."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "backend", tmp_path / "next" / "backend", ignore=ignored)
    block = tmp_path / "next/backend/blocks/logic.py"
    assert ADDS in block.read_text()
    block.write_text(block.read_text().replace(ADDS, ADDS_A_THOUSAND_MORE))
    (tmp_path / f"next/backend/store/migrations/versions/{NEXT}_colours.py").write_text(MIGRATION)
    return tmp_path / "next"


class Users(threading.Thread):
    """Begin runs one after another, at the first server that takes one, until they leave."""

    def __init__(self, graph_id: str, *servers: Environment) -> None:
        super().__init__()
        self.servers = list(servers)
        self.begun: set[UUID] = set()
        self.refused = 0
        self._path = f"/api/v2/graphs/{graph_id}/runs"
        self._leaving = threading.Event()

    def run(self) -> None:
        while not self._leaving.is_set():
            for server in self.servers:
                with suppress(requests.ConnectionError):
                    self.begun.add(UUID(server.post(self._path, {"inputs": {"a": 0}})["id"]))
                    break
            else:
                self.refused += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self.join()


async def test_no_run_is_lost_or_done_twice_when_a_newer_version_takes_over_under_load(
    engine: Engine, next_version: Path, tmp_path: Path, free_port: Callable[[], int], database_url: str
):
    old, new = (settings_for(tmp_path / name, free_port, DATABASE_URL=database_url) for name in ("old", "new"))
    with ExitStack() as stack:

        def start(name: str, variables: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"backend.{name}"]
            process = stack.enter_context(subprocess.Popen(command, cwd=folder, env=variables))
            stack.callback(process.terminate)
            return process

        first = [start(name, old, ROOT) for name in ("executor", "executor", "scheduler")]
        rest = stack.enter_context(started(old, *REST))
        with Users(rest.post("/api/v2/graphs", CHAIN)["id"], rest) as users:
            await seen(engine, SUM_OF_OLD)
            users.servers.append(stack.enter_context(started(new, *REST, folder=next_version)))
            for name in ("executor", "scheduler"):
                start(name, new, next_version)
            await seen(engine, SUM_OF_NEW)
            for process in (*first, rest.process):
                process.terminate()
                assert await asyncio.to_thread(process.wait, PATIENCE) == 143
            begun_by_old = len(users.begun)
            until(lambda: len(users.begun) > begun_by_old)
        for run_id in users.begun:
            await engine.feed.wait_for_end(run_id, PATIENCE)
    assert await engine.pool.fetchval("SELECT version_num FROM alembic_version") == NEXT
    assert users.refused == 0
    rows = await engine.pool.fetch(WHAT_HAPPENED)
    assert {row["run_id"] for row in rows} == users.begun
    assert {tuple(row)[1:] for row in rows} == {("COMPLETED", 5, 5, 1, True)}


async def seen(engine: Engine, sum: int) -> None:
    """Wait for a run with this result."""
    async with asyncio.timeout(PATIENCE):
        while not await engine.pool.fetchval(HAS_SUM, str(sum)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
