"""Servers on free ports, and runs that a test works on itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import orjson
from fastapi import APIRouter, FastAPI

from backend.api.authentication import Keys
from backend.api.metrics import Metrics
from backend.api.services import Services
from backend.api.serving import serve_with_feed
from backend.blocks.resources import close_resources
from backend.execution.executor import Worker
from backend.process import sockets
from backend.settings import Settings
from backend.store import events
from backend.store.connection import Pool
from backend.store.events import Entry, Event
from backend.store.feed import Feed, Render

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


_routers: dict[object, APIRouter] = {}


@asynccontextmanager
async def serving(
    settings: Settings, pool: Pool, build_app: Callable[[Services], FastAPI], render: Render
) -> AsyncIterator[str]:
    listener = sockets.listen("127.0.0.1", 0, setting="AGENT_API_PORT")
    feed, stopping, ready = Feed(pool, render), asyncio.Event(), asyncio.Event()
    services = Services(settings, pool, feed, Metrics(), Keys(pool, settings))
    app = build_app(services)
    # What the framework works out of the routes at the first requests takes it half a second: once for all apps.
    app.router = _routers.setdefault(build_app, app.router)
    server = asyncio.create_task(serve_with_feed(app, listener, stopping, ready.set, services))
    await ready.wait()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        await server
        await close_resources()


@asynccontextmanager
async def executing(settings: Settings, database: Pool) -> AsyncIterator[None]:
    """Somebody works on the runs."""
    worker, stopping = Worker(database, settings), asyncio.Event()
    await worker.join()
    assert settings.database_url
    working = asyncio.create_task(worker.work(settings.database_url, stopping))
    yield
    stopping.set()
    await working
    await worker.leave()
    await close_resources()


class FakeRun:
    """A run that the test itself works on, as an executor would."""

    def __init__(self, database: Pool, id: UUID, graph_id: UUID) -> None:
        self.id = id
        self.graph_id = graph_id
        self._database = database
        self.number = 1

    async def write(self, type: str, status: str | None = None, /, **data: Any) -> int:
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
