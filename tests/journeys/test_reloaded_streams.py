"""Followers of a run while the server they are connected to gives way to a new one on the same socket."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import aiohttp
import pytest

from backend.process import sockets
from backend.store import graphs, queue, runs
from backend.store.identifiers import new_id
from tests.api.server import FakeRun
from tests.api.test_change_streams import Reader
from tests.api.test_streams import numbers, read_events
from tests.execution.engine import Engine
from tests.journeys.environment import PATIENCE, ROOT, settings_for

# Seconds from the signal to the end of a stream, on a machine that is busy; it takes a tenth of that.
PROMPTLY = 1.0


@dataclass
class Servers:
    """Processes of one kind that listen on one socket, one after the other or side by side."""

    module: str
    setting: str
    listener: socket.socket
    inbox: socket.socket
    variables: dict[str, str]

    @property
    def address(self) -> str:
        return sockets.url("http", self.listener)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that is ready."""
        begin = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        begin += "os.execl(sys.executable, sys.executable, '-m', sys.argv[2])"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", begin, str(self.listener.fileno()), self.module),
            cwd=ROOT,
            env=self.variables,
            pass_fds=[self.listener.fileno()],
        )
        try:
            await asyncio.to_thread(self._wait_until_ready)
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def _wait_until_ready(self) -> None:
        while b"READY=1" not in self.inbox.recv(65536).split(b"\n"):
            pass


@pytest.fixture
def servers(request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int], database_url: str):
    module, setting = request.param
    listener = sockets.listen("127.0.0.1", 0, setting=setting)
    port = listener.getsockname()[1]
    with listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "notify"))
        inbox.settimeout(PATIENCE)
        handed = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": f"{setting}=127.0.0.1@{port}"}
        variables = settings_for(tmp_path, free_port, DATABASE_URL=database_url, NOTIFY_SOCKET=str(tmp_path / "notify"))
        yield Servers(module, setting, listener, inbox, {**variables, setting: str(port), **handed})


rest = pytest.mark.parametrize("servers", [("backend.rest", "AGENT_API_PORT")], indirect=True, ids=["rest"])
websocket = pytest.mark.parametrize(
    "servers", [("backend.websocket", "WEBSOCKET_SERVER_PORT")], indirect=True, ids=["websocket"]
)


@pytest.fixture
async def run(engine: Engine) -> FakeRun:
    graph_id, run_id = new_id(), new_id()
    await graphs.insert(engine.pool, graph_id, 1, "graph", {"nodes": [], "links": []})
    await runs.insert(engine.pool, run_id, graph_id, 1, {})
    await queue.claim(engine.pool, new_id(), 1)
    run = FakeRun(engine.pool, run_id, graph_id)
    await run.write("run.started", attempt=1)
    await run.begin_node(1)
    return run


@dataclass
class Writing:
    """Events of a run, one after the other, until it is enough."""

    run: FakeRun
    enough: bool = False

    async def go_on(self) -> None:
        while not self.enough:
            await self.run.put_out(1, "result", None)
        await self.run.complete()


@rest
async def test_a_stream_ends_with_its_server_and_goes_on_with_the_next(servers: Servers, run: FakeRun):
    url = f"{servers.address}/api/v2/runs/{run.id}/events"
    of_graph = Reader(client := aiohttp.ClientSession(), f"{servers.address}/api/v2/graphs/{run.graph_id}/events")
    async with client, servers.one() as old:
        stream = await client.get(url)
        await of_graph.begin()
        ending = asyncio.create_task(of_graph.read(1))
        seen = numbers(await read_events(stream, 3))
        async with servers.one(), asyncio.TaskGroup() as group:
            writing = Writing(run)
            written = group.create_task(writing.go_on())
            seen += numbers(await read_events(stream, 1))
            told = time.monotonic()
            old.terminate()
            # A body that does not end as it should raises an error.
            seen += numbers(await read_events(stream))
            await ending
            assert time.monotonic() - told < PROMPTLY
            assert of_graph.seen == []
            while not (written.done() and seen[-1] == run.number):
                async with client.get(url, headers={"Last-Event-ID": str(seen[-1])}) as stream:
                    assert stream.status == 200
                    more = numbers(await read_events(stream, 50))
                    seen += more
                    writing.enough |= bool(more)
            await of_graph.read(1)
        assert await old.wait() == 143
    assert seen == list(range(1, run.number + 1))
    assert of_graph.seen == [(str(run.id), run.number, "run.completed")]


@websocket
async def test_a_subscription_ends_with_its_server_and_goes_on_with_the_next(servers: Servers, run: FakeRun):
    async with aiohttp.ClientSession(servers.address) as client, servers.one() as old:
        socket = await subscribed(client, run.id, 0)
        seen = await follow(socket, 3)
        async with servers.one(), asyncio.TaskGroup() as group:
            writing = Writing(run)
            written = group.create_task(writing.go_on())
            seen += await follow(socket, 1)
            told = time.monotonic()
            old.terminate()
            seen += await follow(socket)
            assert time.monotonic() - told < PROMPTLY
            assert socket.close_code == aiohttp.WSCloseCode.SERVICE_RESTART
            while not (written.done() and seen[-1] == run.number):
                socket = await subscribed(client, run.id, seen[-1])
                seen += await follow(socket, 1)
                writing.enough = True
                await written
                seen += await follow(socket, run.number - seen[-1])
        assert await old.wait() == 143
    assert seen == list(range(1, run.number + 1))


async def subscribed(client: aiohttp.ClientSession, run_id: UUID, seen: int) -> aiohttp.ClientWebSocketResponse:
    socket = await client.ws_connect("/ws")
    wanted = {"graph_exec_id": str(run_id), "last_event_id": seen}
    await socket.send_json({"method": "subscribe_graph_execution", "data": wanted})
    assert (await socket.receive_json())["success"]
    return socket


async def follow(socket: aiohttp.ClientWebSocketResponse, count: int | None = None) -> list[int]:
    """The numbers of the next `count` events, or of all to the end of the connection."""
    seen: list[int] = []
    while count is None or len(seen) < count:
        message = await socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            break
        seen.append(message.json()["event_id"])
    return seen
