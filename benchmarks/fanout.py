"""Milliseconds until the last of 1,000 subscribers has an event of a run; beside it a broadcast from memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backend.store import bundled, events, graphs
from backend.store.connection import connect
from backend.store.events import Entry, Event
from benchmarks.commands import ROOT, environment, free_port, running
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.throughput import chain
from benchmarks.whole import OURS, PATIENCE, started

SUBSCRIBERS = 1000
EVENTS = 20
# About what an event of a run takes on the wire.
TEXT = "event: node.output\nid: {number}\ndata: " + "x" * 250 + "\n\n"

Send = Callable[[int], Awaitable[object]]


async def measure(rounds: int) -> list[Figure]:
    found: dict[str, list[float]] = {"this server": [], "bare Starlette, from memory": []}
    for number in range(1, rounds + 1):
        for name, one in zip(found, (ours, bare), strict=True):
            found[name].append(await one(SUBSCRIBERS, EVENTS))
            progress(f"round {number}: {name} {found[name][-1]:.0f} ms")
    return side_by_side("ms", found)


async def ours(subscribers: int, count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        with started(OURS, Path(folder), port):
            async with _waiting_run(bundled.dsn(Path(folder))) as (run_id, send):
                return await last_receipt(port, f"/api/v2/runs/{run_id}/events", subscribers, range(2, count + 2), send)


async def bare(subscribers: int, count: int) -> float:
    """The least that any server does: one process that has the event in memory and writes it to each subscriber."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.fanout:memory", "--port", str(port), "--log-level", "error"]
    with running(command, ROOT, environment(), subprocess.DEVNULL):
        await _until_it_listens(port)

        async def send(number: int) -> None:
            await _request(port, f"/send?number={number}")

        return await last_receipt(port, "/events", subscribers, range(2, count + 2), send)


async def last_receipt(port: int, path: str, subscribers: int, numbers: range, send: Send) -> float:
    """The median, over the events, of the milliseconds from just before `send` to when the last subscriber has it."""
    audience = Audience(subscribers)
    everybody = audience.expect(b"HTTP/1.1 200 ")
    loop = asyncio.get_running_loop()
    for _ in range(subscribers):
        await loop.create_connection(lambda: Subscriber(audience, path), "127.0.0.1", port)
    await asyncio.wait_for(everybody, PATIENCE)
    took: list[float] = []
    for number in numbers:
        everybody = audience.expect(b"id: %d\n" % number)
        began = time.perf_counter()
        await send(number)
        took.append((await asyncio.wait_for(everybody, PATIENCE) - began) * 1000)
    audience.leave()
    return median(took)


class Audience:
    """Who has which event."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._members: list[asyncio.Transport] = []
        self._missing = 0
        self._mark = b""

    def expect(self, mark: bytes) -> asyncio.Future[float]:
        """When the last has got it."""
        self._mark = mark
        self._missing = self._size
        self._everybody: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        return self._everybody

    def joined(self, member: asyncio.Transport) -> None:
        self._members.append(member)

    def heard(self, data: bytes) -> None:
        self._missing -= self._mark in data
        if not self._missing and not self._everybody.done():
            self._everybody.set_result(time.perf_counter())

    def leave(self) -> None:
        for member in self._members:
            member.abort()


class Subscriber(asyncio.Protocol):
    """One stream."""

    def __init__(self, audience: Audience, path: str) -> None:
        self._audience = audience
        self._path = path

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._audience.joined(transport)

    def data_received(self, data: bytes) -> None:
        self._audience.heard(data)


@asynccontextmanager
async def _waiting_run(dsn: str) -> AsyncGenerator[tuple[UUID, Send]]:
    """A run that nothing happens in but what we send."""
    connection = await connect(dsn)
    graph_id, run_id = uuid4(), uuid4()
    await graphs.insert(connection, graph_id, 1, "chain", chain(str(graph_id)))
    await connection.execute(
        "INSERT INTO runs (id, graph_id, graph_version, status, inputs, attempt)"
        " VALUES ($1, $2, 1, 'RUNNING', '{}', 1)",
        run_id,
        graph_id,
    )
    await connection.execute("INSERT INTO run_events VALUES ($1, 1, 'run.queued', '{}', now())", run_id)

    async def send(number: int) -> None:
        data = '{"node_run":1,"node_id":"n1","pin":"result","value":"%s"}' % ("x" * 100)
        assert await events.append(connection, [Entry(run_id, 1, [Event(number, "node.output", data)])])

    yield run_id, send
    await connection.close()


async def _until_it_listens(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await _request(port, "/send?number=0")
            except OSError:
                await asyncio.sleep(0.05)


async def _request(port: int, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()


# The peer

_queues: list[asyncio.Queue[str]] = []


async def _events(request: Request) -> StreamingResponse:
    del request
    queue: asyncio.Queue[str] = asyncio.Queue()
    _queues.append(queue)

    async def chunks() -> AsyncGenerator[str]:
        while True:
            yield await queue.get()

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def _send(request: Request) -> Response:
    text = TEXT.format(number=request.query_params["number"])
    for queue in _queues:
        queue.put_nowait(text)
    return Response()


memory = Starlette(routes=[Route("/events", _events), Route("/send", _send)])
