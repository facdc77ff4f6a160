"""What takes room is told by table and by agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from backend.settings import Settings
from backend.store import events, graphs, queue, runs
from backend.store.connection import Pool, Queryable, open_pool
from backend.store.events import Entry, Event
from backend.store.identifiers import new_id
from backend.store.size import size_of


@pytest.fixture
async def pool(database_url: str):
    pool = await open_pool(Settings(database_url=database_url))
    yield pool
    await pool.close()


async def run_agent(pool: Pool, name: str, count: int, value: str) -> None:
    """As many runs, each with an event of this value."""
    graph = await graphs.insert(pool, uuid4(), 1, name, {"nodes": []})
    for _ in range(count):
        await runs.insert(pool, new_id(), graph.id, 1, {})
        [run] = await queue.claim(pool, uuid4(), 1)
        await events.append(pool, [Entry(run.id, run.attempt, [Event(2, "node.output", json.dumps(value))])])


async def test_the_agents_with_the_largest_runs_come_first(pool: Pool):
    await run_agent(pool, "many small", 20, "x")
    await run_agent(pool, "few large", 2, os.urandom(200_000).hex())
    await run_agent(pool, "never", 0, "")
    size = await size_of(pool)
    assert [(agent.name, agent.runs) for agent in size.agents] == [("few large", 2), ("many small", 20)]
    tables = {table.name: table for table in size.tables}
    assert (tables["runs"].rows, tables["run_events"].rows, tables["graphs"].rows) == (22, 44, 3)
    assert tables["run_events"].toast > 400_000
    assert sum(agent.bytes for agent in size.agents) == pytest.approx(
        tables["runs"].bytes + tables["run_events"].bytes, abs=2
    )


async def test_of_a_large_table_only_a_sample_is_read(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.store.size.SAMPLE", 200)
    await run_agent(pool, "agent", 1, "x")
    await pool.execute(
        "INSERT INTO run_events SELECT id, n, 'node.output', to_json(repeat('x', 100)), now()"
        " FROM runs, generate_series(3, 20000) AS n"
    )
    pages = await pool.fetchval("SELECT pg_relation_size('run_events') / 8192")
    async with pool.acquire() as connection:
        before = await blocks_read(connection)
        size = await size_of(connection)
        read = await blocks_read(connection) - before
    [events] = [table for table in size.tables if table.name == "run_events"]
    assert events.rows == pytest.approx(20_000, rel=0.4)
    assert (pages > 400, 0 < read < 1.5 * pages) == (True, True)  # two looks at everything would be 2


async def blocks_read(connection: Queryable) -> int:
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return await connection.fetchval(
        "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relname = 'run_events'"
    )


def examine(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backend.store.size", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


async def test_it_is_shown_to_people_and_told_to_programs(pool: Pool, database_url: str):
    await run_agent(pool, "an agent [bold]", 1, "x")
    shown = examine(DATABASE_URL=database_url, COLUMNS="120")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "run_events" in shown.stdout
    assert "an agent [bold] (" in shown.stdout
    told = json.loads(examine("--json", DATABASE_URL=database_url).stdout)
    assert [agent["name"] for agent in told["agents"]] == ["an agent [bold]"]
    assert {table["name"] for table in told["tables"]} >= {"graphs", "runs", "run_events"}


def test_without_a_database_it_says_what_to_do(tmp_path: Path, free_port: Callable[[], int], postgres: str):
    none = examine(DATA_DIR=str(tmp_path), DATABASE_URL="")
    away = examine(DATABASE_URL=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    empty = examine(DATABASE_URL=postgres)
    assert [each.returncode for each in (none, away, empty)] == [1, 1, 1]
    assert none.stderr == f"No database runs in {tmp_path}: start it with `invoke dev`.\n"
    assert away.stderr.startswith("The PostgreSQL of DATABASE_URL cannot be asked: ")
    assert empty.stderr == "This database has no tables of this server yet: a server makes them when it starts.\n"
