"""What a node costs in graphs of 10, 100 and 1,000; runs per second beside a million stored ones; of two executors."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from backend.store import bundled, graphs
from backend.store.connection import connect
from backend.store.upgrade import upgrade
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.throughput import OUR_RUNS, chain, ours

STORED_RUNS = int(os.environ.get("STORED_RUNS", "1_000_000"))
# Runs stored by one statement.
AT_ONCE = 100_000
# How many runs of graphs of how many nodes: always at least as many as an executor works on at a time.
SIZES = {1000: 100, 100: 400, 10: OUR_RUNS}
GRAPH = UUID(int=1)


async def measure(rounds: int) -> list[Figure]:
    nodes: dict[str, list[float]] = {f"a node of {size}": [] for size in SIZES}
    stored: dict[str, list[float]] = {f"beside {STORED_RUNS:,} stored runs": [], "beside no stored runs": []}
    executors: dict[str, list[float]] = {f"two executors, {os.cpu_count()} cores": [], "one executor": []}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        async with database(Path(folder) / "empty") as empty, database(Path(folder) / "full") as full:
            await fill(full, STORED_RUNS)
            for _ in range(rounds):
                for values, (size, runs) in zip(nodes.values(), SIZES.items(), strict=True):
                    values.append(1e6 / (size * await ours(empty, runs=runs, nodes=size)))
                for values, dsn in zip(stored.values(), (full, empty), strict=True):
                    values.append(await ours(dsn))
                for values, count in zip(executors.values(), (2, 1), strict=True):
                    values.append(await ours(empty, runs=2 * OUR_RUNS, executors=count))
    return [*side_by_side("µs", nodes), *side_by_side("runs/s", stored), *side_by_side("runs/s", executors)]


@asynccontextmanager
async def database(folder: Path) -> AsyncGenerator[str]:
    """The address of a new database."""
    server = bundled.Bundled(folder, tell=lambda line: None)
    server.start()
    try:
        await asyncio.to_thread(upgrade, bundled.dsn(folder))
        yield bundled.dsn(folder)
    finally:
        server.stop()


async def fill(dsn: str, count: int) -> None:
    """Store runs that ended one each second until now, each with the four events of a run of one node."""
    connection = await connect(dsn)
    await graphs.insert(connection, GRAPH, 1, "chain", chain(str(GRAPH)))
    for first in range(0, count, AT_ONCE):
        await connection.execute(FILL, GRAPH, first, min(first + AT_ONCE, count) - 1, count)
        progress(f"{min(first + AT_ONCE, count):,} runs are stored")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


# The ids grow with time, as those of runs do.
FILL = """
    WITH stored AS (
        INSERT INTO runs (id, graph_id, graph_version, status, inputs, attempt, created_at, started_at, ended_at)
        SELECT lpad(to_hex(n), 32, '0')::uuid, $1, 1, 'COMPLETED', '{"a": 1}', 1, at, at, at
        FROM generate_series($2::int, $3::int) AS n, LATERAL (SELECT now() - make_interval(secs => $4::int - n)) t (at)
        RETURNING id, created_at
    )
    INSERT INTO run_events (run_id, number, type, data, created_at)
    SELECT id, number, type, data::json, created_at FROM stored, (VALUES
        (1, 'run.queued', '{}'),
        (2, 'node.started', '{"node_run":1,"node_id":"n1","block_id":"b1ab9b19-67a6-406d-abf5","inputs":{}}'),
        (3, 'node.output', '{"node_run":1,"node_id":"n1","pin":"result","value":2}'),
        (4, 'run.completed', '{"waiting":[],"never_ran":[]}')
    ) AS event (number, type, data)
"""
