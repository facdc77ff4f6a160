"""Requests per second for reading, listing and starting runs, beside bare FastAPI; the p99 while 50 agents run."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg
import orjson

from backend.store import graphs
from backend.store.connection import connect
from backend.store.users import DEFAULT_USER
from benchmarks.commands import environment, free_port
from benchmarks.latency import spread
from benchmarks.measure import Figure, progress
from benchmarks.scale import database
from benchmarks.throughput import CALCULATOR, chain, execute, queue

# Runs that are stored, each of ten nodes, and have ended.
STORED = 200
CONNECTIONS = 16
SECONDS = 1.0
# Requests before each measurement, so that every server is warm.
WARM_UP = 100
PATIENCE = 60.0

AGENTS = 50
TIMER = "d67a9c52-5e4e-11e2-bcfd-0800200c9a71"
NODES_A_SECOND = 8
RATE = 200
OPEN_FOR = 8.0

KEY = "agpt_" + "benchmark" * 5
OURS, OURS_WITH_KEY, BARE = "this server", "this server, with an API key", "bare FastAPI"
SUCCESS = b"HTTP/1.1 20"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Server(NamedTuple):
    port: int
    prefix: str = ""
    headers: str = ""

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{self.headers}{about}\r\n"
        return head.encode() + body


async def measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        async with database(Path(folder)) as dsn, _connection(dsn) as connection, AsyncExitStack() as stack:
            graph_id, run_id = await _stored(connection, dsn)
            servers = {name: stack.enter_context(_serving(name, dsn)) for name in (OURS, OURS_WITH_KEY, BARE)}
            for server in servers.values():
                await _until_it_answers(server, run_id)
            found = await _rates(connection, servers, graph_id, run_id, rounds)
            tails = await _tails(connection, dsn, servers[OURS], graph_id, run_id, rounds)
    return [*found, *tails]


async def _rates(
    connection: asyncpg.Connection, servers: dict[str, Server], graph_id: UUID, run_id: UUID, rounds: int
) -> list[Figure]:
    """Each server in turn, so that all have the same machine."""
    requests = {name: _requests(server, graph_id, run_id) for name, server in servers.items()}
    found = {what: {name: list[float]() for name in servers} for what in requests[OURS]}
    for number in range(1, rounds + 1):
        for what, of_all in found.items():
            for name, values in of_all.items():
                values.append(await rate(servers[name], requests[name][what]))
                await _delete_queued(connection)
            told = ", ".join(f"{name} {values[-1]:.0f}" for name, values in of_all.items())
            progress(f"round {number}: {what}, requests/s: {told}")
    return [figure for what, of_all in found.items() for figure in _beside_bare(what, of_all)]


def _beside_bare(what: str, found: dict[str, list[float]]) -> Iterator[Figure]:
    for name in (OURS, OURS_WITH_KEY):
        ours = Figure(f"{what}, {name}", "requests/s", found[name])
        yield ours
        yield Figure(f"{what}, {BARE}", "requests/s", found[BARE], ours)


def _requests(server: Server, graph_id: UUID, run_id: UUID) -> dict[str, bytes]:
    return {
        "reading a run": server.request("GET", f"/runs/{run_id}"),
        "listing runs": server.request("GET", "/runs?limit=20"),
        "starting a run": server.request("POST", f"/graphs/{graph_id}/runs", b'{"inputs": {"a": 1}}'),
    }


async def rate(server: Server, request: bytes) -> float:
    """Requests per second, over some connections that each ask again when they are answered."""
    async with _connected(server, CONNECTIONS) as connections:
        await asyncio.gather(*(_ask_for(each, request, WARM_UP // CONNECTIONS) for each in connections))
        began = time.perf_counter()
        counts = await asyncio.gather(*(_ask_until(each, request, began + SECONDS) for each in connections))
        return sum(counts) / (time.perf_counter() - began)


async def _ask_for(connection: Connection, request: bytes, times: int) -> None:
    for _ in range(times):
        await connection.ask(request)


async def _ask_until(connection: Connection, request: bytes, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await connection.ask(request)
        count += 1
    return count


async def _tails(
    connection: asyncpg.Connection, dsn: str, server: Server, graph_id: UUID, run_id: UUID, rounds: int
) -> list[Figure]:
    """The p99 of a mix of requests while agents run, and while none does."""
    reading, listing, starting = _requests(server, graph_id, run_id).values()
    mix = [*[reading] * 8, listing, starting]
    busy, idle = list[float](), list[float]()
    with _process([sys.executable, "-m", "backend.executor"], DATABASE_URL=dsn):
        agent = await _store_agent(server)
        await milliseconds(server, mix)
        for number in range(1, rounds + 1):
            idle.append(spread(await milliseconds(server, mix))[1])
            async with _agents(connection, server, agent):
                busy.append(spread(await milliseconds(server, mix))[1])
            progress(f"round {number}: p99 {idle[-1]:.1f} ms idle, {busy[-1]:.1f} ms while {AGENTS} agents run")
    ours = Figure(f"p99 of a mix, {RATE} a second, while {AGENTS} agents run", "ms", busy)
    return [ours, Figure("p99 of a mix, while none runs", "ms", idle, ours)]


async def milliseconds(server: Server, mix: Sequence[bytes]) -> list[float]:
    """From when each request was due to its answer: they are sent at fixed times, whether or not there are answers."""
    loop = asyncio.get_running_loop()
    async with _connected(server, CONNECTIONS) as connections:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for each in connections:
            free.put_nowait(each)

        async def one(request: bytes, due: float) -> float:
            connection = await free.get()
            await connection.ask(request)
            free.put_nowait(connection)
            return (loop.time() - due) * 1000

        began, asked = loop.time(), list[asyncio.Task[float]]()
        for number, request in enumerate(islice(cycle(mix), int(RATE * OPEN_FOR))):
            await asyncio.sleep((due := began + number / RATE) - loop.time())
            asked.append(asyncio.create_task(one(request, due)))
        return await asyncio.gather(*asked)


@asynccontextmanager
async def _agents(connection: asyncpg.Connection, server: Server, graph_id: str) -> AsyncGenerator[None]:
    """Agents that are at work."""
    ids: list[str] = []
    for _ in range(AGENTS):
        ids.append(_id_in(await _ask_once(server, "POST", f"/graphs/{graph_id}/runs", b"{}")))
        await asyncio.sleep(1 / AGENTS)
    await _count(connection, "status = 'RUNNING'", ids, AGENTS)
    yield
    await _count(connection, "status = 'RUNNING'", ids, AGENTS)
    for id in ids:
        await _ask_once(server, "POST", f"/runs/{id}/stop")
    await _count(connection, "ended_at IS NOT NULL", ids, AGENTS)


async def _count(connection: asyncpg.Connection, what: str, ids: list[str], wanted: int) -> None:
    """Wait until so many of the runs are that."""
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(f"SELECT count(*) FROM runs WHERE {what} AND id = ANY($1)", ids) < wanted:
            await asyncio.sleep(0.05)


async def _store_agent(server: Server) -> str:
    """An agent that waits for a second, as for a model, and then does some nodes, again and again."""
    names = [f"n{number}" for number in range(NODES_A_SECOND)]
    timer = {"seconds": 1, "repeat": 1000, "input_message": 1}
    nodes = [
        {"id": "timer", "block_id": TIMER, "input_default": timer},
        *({"id": name, "block_id": CALCULATOR, "input_default": {"operation": "Add", "b": 1}} for name in names),
    ]
    links = [
        {"id": f"to {sink}", "source_id": source, "sink_id": sink, "source_name": pin, "sink_name": "a"}
        for source, sink, pin in zip(
            ["timer", *names], names, ["output_message", *["result"] * NODES_A_SECOND], strict=False
        )
    ]
    body = orjson.dumps({"name": "agent", "nodes": nodes, "links": links})
    return _id_in(await _ask_once(server, "POST", "/graphs", body))


async def _ask_once(server: Server, method: str, path: str, body: bytes = b"") -> bytes:
    async with _connected(server, 1) as [connection]:
        return await connection.ask(server.request(method, path, body))


def _id_in(body: bytes) -> str:
    return orjson.loads(body)["id"]


async def _stored(connection: asyncpg.Connection, dsn: str) -> tuple[UUID, UUID]:
    """Runs of ten nodes that have ended. Returns their graph, and one of them."""
    graph_id = uuid4()
    await graphs.insert(connection, graph_id, 1, "chain", chain(str(graph_id)))
    await queue(connection, graph_id, STORED)
    await execute(connection, dsn, graph_id, STORED)
    await connection.execute("VACUUM ANALYZE")
    return graph_id, await connection.fetchval("SELECT id FROM runs LIMIT 1")


async def _delete_queued(connection: asyncpg.Connection) -> None:
    await connection.execute("DELETE FROM runs WHERE status = 'QUEUED' AND user_id = $1", DEFAULT_USER)


@contextmanager
def _serving(name: str, dsn: str) -> Iterator[Server]:
    """One of the servers on a port of its own, a single process."""
    port = free_port()
    ours = [sys.executable, "-m", "backend.rest"]
    bare = [sys.executable, "-m", "uvicorn", "benchmarks.bare_api:app", "--port", str(port), "--no-access-log"]
    bare += ["--log-level", "error"]
    variables = {"DATABASE_URL": dsn, "AGENT_API_PORT": str(port)}
    if name == OURS_WITH_KEY:
        # More than are sent: what is refused would be fast.
        variables |= {"APP_ENV": "production", "AGENT_API_KEY": KEY, "RATE_LIMIT_PER_MINUTE": "600000"}
        variables |= {"ENCRYPTION_KEY": "A" * 43 + "="}
    with _process(bare if name == BARE else ours, **variables):
        if name == BARE:
            yield Server(port)
        else:
            yield Server(port, "/api/v2", f"X-API-Key: {KEY}\r\n" if name == OURS_WITH_KEY else "")


@contextmanager
def _process(command: list[str], **variables: str) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment(**variables), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def _until_it_answers(server: Server, run_id: UUID) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await _ask_once(server, "GET", f"/runs/{run_id}")
                return
            except OSError:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def _connection(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    connection = await connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _connected(server: Server, count: int) -> AsyncGenerator[list[Connection]]:
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, "127.0.0.1", server.port))[1] for _ in range(count)]
    try:
        yield connections
    finally:
        for each in connections:
            each.close()


class Connection(asyncio.Protocol):
    """One connection, which takes little of the time of a machine that the server shares."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """The body of the answer. ConnectionError if it is not as it should be."""
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        length = LENGTH.search(head)
        if not head.startswith(SUCCESS) or length is None:
            self._answer.set_exception(ConnectionError(f"the answer is {self._received[:500]!r}"))
        elif len(body) >= int(length[1]):
            self._answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("closed without an answer"))
