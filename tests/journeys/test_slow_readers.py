"""Readers that do not read: they cost the server a bounded amount of memory, and nobody else any time."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path

import aiohttp

from backend.store.connection import Pool
from tests.api.server import FakeRun
from tests.execution.engine import Engine
from tests.journeys.test_reloaded_streams import Servers, rest, run, servers

__all__ = ["run", "servers"]

READERS = int(os.environ.get("SLOW_READERS", "100"))
EVENTS, SIZE = 10_000, 1000
# Of a reader: what its transport holds before it says stop, and the batch that is on its way there.
EACH = 512 * 1024


def resident(pid: int) -> int:
    """Bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def write(pool: Pool, run: FakeRun) -> None:
    while run.number < EVENTS:
        await pool.execute(
            """
            WITH written AS (
                INSERT INTO run_events (run_id, number, type, data, created_at)
                SELECT $1, number, 'node.output', $4::json, now() FROM generate_series($2::int, $3::int) AS number
            )
            SELECT pg_notify('run_events', $1::text)
            """,
            run.id,
            run.number + 1,
            run.number + 500,
            {"node_run": 1, "node_id": "node 1", "pin": "result", "value": "x" * SIZE},
        )
        run.number += 500
    await run.complete()


@rest
async def test_readers_that_do_not_read_cost_little_and_hold_up_nobody(servers: Servers, run: FakeRun, engine: Engine):
    port = servers.listener.getsockname()[1]
    request = f"GET /api/v2/runs/{run.id}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    async with servers.one() as server, aiohttp.ClientSession(servers.address) as client:
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(READERS)]
        for each in slow:
            each.sendall(request)
        async with client.get(f"/api/v2/runs/{run.id}/events") as answer:
            await answer.content.readline()
            before = resident(server.pid)
            writing = asyncio.create_task(write(engine.pool, run))
            numbers = [int(line[4:]) async for line in answer.content if line.startswith(b"id: ")]
            await writing
        grown = resident(server.pid) - before
        print(f"{READERS} readers: {before / 1e6:.0f} MB before, {grown / 1e6:.0f} MB more")  # noqa: T201
        for each in slow:
            each.close()
    assert numbers == list(range(2, run.number + 1))
    assert grown < READERS * EACH + 100e6
