"""What a run costs the database: transactions, notifications, write-ahead log and room, of a chain of ten nodes."""

from __future__ import annotations

import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from backend.settings import Settings
from backend.store import bundled, graphs, runs
from backend.store.connection import Pool, connect, open_pool
from backend.store.identifiers import new_id
from backend.store.upgrade import upgrade
from benchmarks.measure import Figure
from benchmarks.throughput import OUR_RUNS, chain, execute

CHANNELS = ("run_queued", "run_events", "run_stop", "run_pause", "run_woken")
# Requests that are answered at a time.
CLIENTS = 10
# Seconds within which PostgreSQL's processes tell what they have counted.
TOLD_WITHIN = 1.5

COUNTS = """
    SELECT
        (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())::float8 AS transactions,
        (pg_current_wal_lsn() - '0/0') / 1000.0::float8 AS "kB of write-ahead log",
        (SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables) / 1000.0::float8 AS "kB of room"
"""


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
    found: dict[str, list[float]] = {}
    heard: list[object] = []
    async with await open_pool(Settings(database_url=dsn)) as pool:
        connection = await connect(dsn)
        for channel in CHANNELS:
            await connection.add_listener(channel, lambda *told: heard.append(told))
        for _ in range(rounds):
            graph_id = uuid4()
            await graphs.insert(pool, graph_id, 1, "chain", chain(str(graph_id)))
            counts = [await _counts(connection, heard)]
            await _accept(pool, graph_id)
            counts.append(await _counts(connection, heard))
            await execute(connection, dsn, graph_id)
            counts.append(await _counts(connection, heard))
            for phase, (before, after) in zip(("accepted", "executed"), pairwise(counts), strict=True):
                for what, count in after.items():
                    found.setdefault(f"{what}, {phase}", []).append((count - before[what]) / OUR_RUNS)
        await connection.close()
    return [Figure(what, "a run", costs) for what, costs in found.items()]


async def _counts(connection: asyncpg.Connection, heard: list[object]) -> dict[str, float]:
    await asyncio.sleep(TOLD_WITHIN)
    row = await connection.fetchrow(COUNTS)
    assert row is not None
    return {**{what: float(count) for what, count in row.items()}, "notifications": len(heard)}


async def _accept(pool: Pool, graph_id: UUID) -> None:
    """As the REST API does, for some clients at a time."""

    async def client() -> None:
        for _ in range(OUR_RUNS // CLIENTS):
            await runs.insert(pool, new_id(), graph_id, 1, {"a": 1})

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
