"""A REST server and a WebSocket server on free ports, with a database of their own, and clients of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from backend.api import rest_api, websocket_api
from backend.api.access import Permission
from backend.api.streams import event_json, sse_chunk
from backend.settings import Settings
from backend.store import api_keys, graphs, queue, runs, users
from backend.store.connection import Pool, open_pool
from backend.store.identifiers import new_id
from tests.api.server import ECHO, FakeRun, executing, serving


@pytest.fixture(autouse=True)
def _only_notifications_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look that is taken now and then, a notification that is not heard fails a test."""
    monkeypatch.setattr("backend.store.feed.LOOK_EVERY", 3600)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(_env_file=None, database_url=database_url, data_dir=tmp_path)  # pyright: ignore[reportCallIssue]


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Pool]:
    pool = await open_pool(settings)
    yield pool
    await pool.close()


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
    async with executing(settings, database):
        yield


@pytest.fixture
async def echo(api) -> str:
    """The address of the runs of a graph that gives back its input."""
    async with api.post("/api/v2/graphs", json=ECHO) as answer:
        return f"/api/v2/graphs/{(await answer.json())['id']}/runs"


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
        (claimed,) = await queue.claim(database, new_id(), 1)
        assert claimed.id == run.id
        await run.write("run.started", attempt=1)
        return run

    return make


@pytest.fixture
def closed(settings: Settings) -> Settings:
    """Settings of a server to which others can come."""
    return settings.model_copy(update={"app_env": "production", "encryption_key": SecretStr("k" * 43 + "=")})


@pytest.fixture
async def door(closed: Settings, database: Pool) -> AsyncIterator[str]:
    async with serving(closed, database, rest_api.build_app, sse_chunk) as address:
        yield f"http://{address}"


MakeKey = Callable[..., Any]


@pytest.fixture
def make_key(database: Pool) -> MakeKey:
    async def make(*permissions: Permission, user: str = "default", **how: Any) -> str:
        key = api_keys.new_key()
        user_id = await users.named(database, user)
        await api_keys.insert(database, key, user_id, "test", permissions or list(Permission), **how)
        return key

    return make
