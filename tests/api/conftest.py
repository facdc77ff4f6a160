"""A REST server and a WebSocket server on free ports, with a database of their own, and clients of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import pytest
import structlog

from backend.api import rest_api, websocket_api
from backend.api.metrics import Metrics
from backend.api.services import Services
from backend.api.serving import serve_with_feed
from backend.api.streams import event_json, sse_chunk
from backend.execution.executor import Worker
from backend.process import sockets
from backend.settings import Settings
from backend.store import events, graphs, runs
from backend.store.connection import Pool, open_pool
from backend.store.events import Entry, Event
from backend.store.feed import Feed, Render
from backend.store.identifiers import new_id

INPUT_BLOCK = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
OUTPUT_BLOCK = "363ae599-353e-4804-937e-b2ee3cef3da4"

ECHO: dict[str, Any] = {
    "name": "Echo",
    "nodes": [
        {"id": "in", "block_id": INPUT_BLOCK, "input_default": {"name": "Input"}},
        {"id": "out", "block_id": OUTPUT_BLOCK, "input_default": {"name": "Output"}},
    ],
    "links": [{"id": "link", "source_id": "in", "sink_id": "out", "source_name": "result", "sink_name": "value"}],
}


@pytest.fixture(autouse=True)
def _short_logs() -> None:
    """Without this a failure is drawn with all variables, however large."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, database_url=database_url, data_dir=tmp_path)  # pyright: ignore[reportCallIssue]


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Pool]:
    pool = await open_pool(settings)
    yield pool
    await pool.close()


@asynccontextmanager
async def serving(settings: Settings, pool: Pool, build_app: Any, render: Render) -> AsyncIterator[str]:
    listener = sockets.listen("127.0.0.1", 0, setting="AGENT_API_PORT")
    feed, stopping, ready = Feed(pool, render), asyncio.Event(), asyncio.Event()
    app = build_app(Services(settings, pool, feed, Metrics()))
    server = asyncio.create_task(serve_with_feed(app, listener, stopping, ready.set, feed, settings))
    await ready.wait()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        await server


@pytest.fixture
async def rest_address(settings: Settings, database: Pool) -> AsyncIterator[str]:
    async with serving(settings, database, rest_api.build_app, sse_chunk) as address:
        yield address


@pytest.fixture
async def websocket_address(settings: Settings, database: Pool) -> AsyncIterator[str]:
    async with serving(settings, database, websocket_api.build_app, event_json) as address:
        yield address


@pytest.fixture
async def api(rest_address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose relative addresses are those of the REST server."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://{rest_address}", connector=connector) as client:
        yield client


@pytest.fixture
async def executor(settings: Settings, database: Pool) -> AsyncIterator[None]:
    """Somebody who works on the runs."""
    worker, stopping = Worker(database, settings), asyncio.Event()
    await worker.join()
    assert settings.database_url
    working = asyncio.create_task(worker.work(settings.database_url, stopping))
    yield
    stopping.set()
    await working
    await worker.leave()


class FakeRun:
    """A run that the test itself works on, as an executor would."""

    def __init__(self, database: Pool, id: UUID, graph_id: UUID) -> None:
        self.id = id
        self.graph_id = graph_id
        self._database = database
        self.number = 1

    async def write(self, type: str, status: str | None = None, **data: Any) -> int:
        self.number += 1
        event = Event(self.number, type, orjson.dumps(data).decode())
        assert await events.append(self._database, [Entry(self.id, 1, [event], status)]) == {self.id}
        return self.number

    async def begin_node(self, number: int, **inputs: Any) -> None:
        await self.write("node.started", node_run=number, node_id=f"node {number}", block_id="block", inputs=inputs)

    async def put_out(self, number: int, pin: str, value: Any) -> None:
        await self.write("node.output", node_run=number, node_id=f"node {number}", pin=pin, value=value)

    async def complete_node(self, number: int) -> None:
        await self.write("node.completed", node_run=number, node_id=f"node {number}")

    async def complete(self) -> None:
        await self.write("run.completed", "COMPLETED")


MakeRun = Callable[[], Any]


@pytest.fixture
def queue_run(database: Pool) -> MakeRun:
    """Stores a graph and queues a run of it."""

    async def make() -> FakeRun:
        graph_id, run_id = new_id(), new_id()
        await graphs.insert(database, graph_id, 1, "Echo", {"nodes": [], "links": []})
        await runs.insert(database, run_id, graph_id, 1, {"Input": 5})
        return FakeRun(database, run_id, graph_id)

    return make


@pytest.fixture
def start_run(queue_run: MakeRun, database: Pool) -> MakeRun:
    """Queues a run, claims it and writes its start."""

    async def make() -> FakeRun:
        run = await queue_run()
        (claimed,) = await runs.claim(database, new_id(), 1)
        assert claimed.id == run.id
        await run.write("run.started", attempt=1)
        return run

    return make
