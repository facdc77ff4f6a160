"""The REST API as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def running(
    module: str, database_url: str, data_dir: Path, *flags: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", module, "--data-dir", str(data_dir), *flags)
    environment = os.environ | {"DATABASE_URL": database_url}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def livez(address: str) -> None:
    """Return when the server at `address` answers."""
    async with aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"{address}/livez"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("module", ["backend.rest", "backend.websocket"])
async def test_a_process_serves_until_sigterm_whatever_streams_are_open(
    module: str, database_url: str, tmp_path: Path, free_port, start_run
):
    run, port = await start_run(), free_port()
    async with (
        running(module, database_url, tmp_path, "--port", str(port)) as process,
        aiohttp.ClientSession() as client,
    ):
        await livez(f"http://127.0.0.1:{port}")
        if module == "backend.rest":
            stream = await client.get(f"http://127.0.0.1:{port}/api/v2/runs/{run.id}/events")
            assert await stream.content.readline() == b"id: 1\n"
            reading = asyncio.create_task(stream.read())
        else:
            socket = await client.ws_connect(f"ws://127.0.0.1:{port}/ws")
            await socket.send_json({"method": "subscribe_graph_execution", "data": {"graph_exec_id": str(run.id)}})
            await socket.receive_json()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            if module == "backend.rest":
                assert b"run.started" in await reading  # ended in order, not cut
            assert await process.wait() == 143


async def test_a_database_that_cannot_be_reached_is_told_in_one_sentence(tmp_path: Path, free_port):
    nowhere = f"postgresql://127.0.0.1:{free_port()}/none"
    async with running("backend.rest", nowhere, tmp_path, "--port", "0") as process:
        _, told = await process.communicate()
    assert process.returncode == 1
    assert told.decode().count("\n") == 1
    assert "DATABASE_URL" in told.decode()
