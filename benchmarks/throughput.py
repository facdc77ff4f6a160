"""Runs per second of a chain of ten nodes, each result durable; beside it the same chain on LangGraph and DBOS."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import orjson

from backend.store import bundled, graphs
from backend.store.connection import connect
from backend.store.identifiers import new_id
from backend.store.upgrade import upgrade
from benchmarks.measure import Figure, side_by_side

NODES = 10
OUR_RUNS = 2000

INPUT = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
CALCULATOR = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
OUTPUT = "363ae599-353e-4804-937e-b2ee3cef3da4"


async def measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        server = bundled.Bundled(Path(folder), tell=lambda line: None)
        server.start()
        try:
            dsn = bundled.dsn(Path(folder))
            await asyncio.to_thread(upgrade, dsn)
            return await _measure(dsn, rounds)
        finally:
            server.stop()


async def _measure(dsn: str, rounds: int) -> list[Figure]:
    contenders: dict[str, Callable[[], Awaitable[float]]] = {
        "this server, one executor": lambda: ours(dsn),
        "LangGraph, PostgreSQL checkpointer": lambda: rate("langgraph_durable", dsn),
        "LangGraph, no checkpointer": lambda: rate("langgraph_in_memory", dsn),
        "DBOS steps": lambda: rate("dbos_steps", dsn),
        "bare PostgreSQL, the same rows": lambda: bare(dsn),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(await contender())
    return side_by_side("runs/s", found)


async def rate(name: str, dsn: str) -> float:
    """Runs per second of a function of `peers`."""
    return (await peer(name, dsn))[0]


async def peer(name: str, dsn: str) -> list[float]:
    """What a function of `peers` has measured, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.peers", name, dsn, stdout=subprocess.PIPE
    )
    said, _ = await process.communicate()
    return [float(word) for word in said.splitlines()[-1].split()]


async def ours(dsn: str, *, runs: int = OUR_RUNS, nodes: int = NODES, executors: int = 1) -> float:
    """Queue the runs, start executors, and time from the first claim to the last end: runs per second."""
    connection = await connect(dsn)
    graph_id = uuid4()
    try:
        await graphs.insert(connection, graph_id, 1, "chain", chain(str(graph_id), nodes))
        await queue(connection, graph_id, runs)
        return await execute(connection, dsn, graph_id, runs, executors)
    finally:
        await connection.close()


async def execute(
    connection: asyncpg.Connection, dsn: str, graph_id: UUID, runs: int = OUR_RUNS, executors: int = 1
) -> float:
    """Have executors do the runs that are queued. Returns how many per second they did."""
    environment = os.environ | {"DATABASE_URL": dsn, "NUM_GRAPH_WORKERS": "100"}
    command = [sys.executable, "-m", "backend.executor"]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(executors)]
    try:
        while await connection.fetchval("SELECT count(*) FROM runs WHERE graph_id = $1 AND ended_at IS NULL", graph_id):
            await asyncio.sleep(0.1)
    finally:
        for executor in started:
            executor.terminate()
        for executor in started:
            executor.wait()
    row = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE status = 'COMPLETED') AS done, max(ended_at) - min(started_at) AS took"
        " FROM runs WHERE graph_id = $1",
        graph_id,
    )
    assert row is not None
    assert row["done"] == runs, f"{row['done']} of {runs} runs completed"
    return runs / row["took"].total_seconds()


async def queue(connection: asyncpg.Connection, graph_id: UUID, count: int) -> None:
    """Store runs that any executor may begin, with ids such as the server gives."""
    await connection.execute(
        """
        WITH queued AS (
            INSERT INTO runs (id, graph_id, graph_version, status, inputs)
            SELECT id, $1, 1, 'QUEUED', '{"a": 1}' FROM unnest($2::uuid[]) AS id RETURNING id
        )
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT id, 1, 'run.queued', '{}', now() FROM queued
        """,
        graph_id,
        [new_id() for _ in range(count)],
    )


async def bare(dsn: str) -> float:
    """What the database alone would do: the rows of our runs, 100 to a transaction, from one plain loop."""
    connection = await connect(dsn)
    rows_of_a_run = await connection.fetch(
        "SELECT number, type, data::text, created_at FROM run_events"
        " WHERE run_id = (SELECT run_id FROM run_events ORDER BY created_at DESC LIMIT 1)"
    )
    started = time.perf_counter()
    for _ in range(OUR_RUNS // 10):
        ids = [new_id() for _ in range(10)]
        await connection.executemany(
            "INSERT INTO run_events (run_id, number, type, data, created_at) VALUES ($1, $2, $3, $4::text::json, $5)",
            [(run_id, *row) for run_id in ids for row in rows_of_a_run],
        )
    took = time.perf_counter() - started
    await connection.close()
    return OUR_RUNS / took


def chain(graph_id: str, count: int = NODES) -> dict[str, object]:
    """An input, calculators that add one, an output."""
    middle = [
        {"id": f"n{i}", "block_id": CALCULATOR, "input_default": {"operation": "Add", "b": 1}}
        for i in range(1, count - 1)
    ]
    nodes = [
        {"id": "n0", "block_id": INPUT, "input_default": {"name": "a"}},
        *middle,
        {"id": f"n{count - 1}", "block_id": OUTPUT, "input_default": {"name": "result"}},
    ]
    links = [
        {
            "id": f"l{i}",
            "source_id": f"n{i}",
            "source_name": "result",
            "sink_id": f"n{i + 1}",
            "sink_name": "value" if i == count - 2 else "a",
            "is_static": i == 0,
        }
        for i in range(count - 1)
    ]
    return orjson.loads(orjson.dumps({"id": graph_id, "version": 1, "name": "chain", "nodes": nodes, "links": links}))
