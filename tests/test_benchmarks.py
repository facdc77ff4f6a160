"""The benchmarks measure what they say; their figures are no matter of a test."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import struct
from pathlib import Path

import pytest

from backend.execution.history import fold
from backend.execution.plan import make_plan
from backend.graphs.graph import Graph
from backend.store import events, runs
from backend.store.connection import connect
from benchmarks.__main__ import NAMES
from benchmarks.fanout import Audience, last_receipt
from benchmarks.measure import side_by_side
from benchmarks.poller import Poller
from benchmarks.scale import GRAPH, fill
from benchmarks.throughput import chain

ROOT = Path(__file__).parents[1]
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"number":7}'


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there_and_documented(name: str):
    assert importlib.util.find_spec(f"benchmarks.{name}")
    document = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}` \|", document, re.MULTILINE)
    assert name in (ROOT / "tasks.py").read_text(encoding="utf-8").partition("def bench")[2].partition("\n\n")[0]


def test_ratios_are_of_ours():
    ours, peer, still = side_by_side("s", {"ours": [1, 2, 3], "peer": [8, 8, 8], "still": [0]})
    assert (ours.ratio, peer.ratio, still.ratio) == (1, 0.25, None)


class Server(asyncio.Protocol):
    """Gives the same answer to each request, and soon after it may end the connection."""

    def __init__(self, answer: bytes, after: str) -> None:
        self._answer = answer
        self._after = after

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        if self._after != "nothing":
            asyncio.get_running_loop().call_later(0.02, self._end)

    def _end(self) -> None:
        if self._after == "reset" and not self._transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.close()


@pytest.mark.parametrize(
    ("answer", "after", "fails", "drops"),
    [
        (ANSWER, "nothing", False, False),
        (ANSWER, "reset", True, False),
        (ANSWER, "close", False, True),
        (ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), "close", False, False),
        (ANSWER[:-1], "close", True, False),
        (b"", "close", True, False),
        (ANSWER.replace(b"200 OK", b"500 NO"), "nothing", True, False),
    ],
)
async def test_a_poller_sees_how_requests_and_connections_end(answer: bytes, after: str, fails: bool, drops: bool):
    server = await asyncio.get_running_loop().create_server(lambda: Server(answer, after), "127.0.0.1", 0)
    poller = Poller(server.sockets[0].getsockname()[1])
    poller.expect(7)
    polling = asyncio.ensure_future(poller.run())
    await asyncio.sleep(0.3)
    polling.cancel()
    await poller.end()
    server.close()
    await asyncio.sleep(0.05)  # the last connections end
    assert (poller.failures.total() > 0, poller.dropped > 0) == (fails, drops)


@pytest.mark.parametrize("count", [3, 10, 100])
def test_a_chain_is_a_graph_that_runs_from_its_first_node_to_its_last(count: int):
    plan = make_plan(Graph.model_validate(chain(str(GRAPH), count)), GRAPH, 1)
    assert len(plan.nodes) == count
    assert [node.id for node in plan.topology.starting] == ["n0"]
    assert plan.nodes[f"n{count - 1}"].is_output


async def test_stored_runs_are_whole(database_url: str):
    await fill(database_url, 3)
    connection = await connect(database_url)
    stored = await connection.fetch("SELECT id FROM runs ORDER BY created_at")
    histories = [fold(await events.read(connection, row["id"])) for row in stored]
    found = [await runs.get(connection, row["id"]) for row in stored]
    await connection.close()
    assert [run and run.status for run in found] == ["COMPLETED"] * 3
    assert [len(history.node_runs) for history in histories] == [1] * 3


async def test_an_event_has_arrived_when_the_last_subscriber_has_it():
    audience = Audience(3)
    everybody = audience.expect(b"id: 2\n")
    for heard in (b"id: 2\n", b"id: 1\n", b"event: a\nid: 2\n"):
        audience.heard(heard)
    assert not everybody.done()
    audience.heard(b"id: 2\n")
    assert everybody.done()


async def test_subscribers_are_told_of_each_event():
    streams: list[asyncio.StreamWriter] = []
    sent: list[int] = []

    async def subscribe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        streams.append(writer)

    async def send(number: int) -> None:
        sent.append(number)
        for stream in streams:
            stream.write(b"id: %d\n" % number)

    async with await asyncio.start_server(subscribe, "127.0.0.1", 0) as server:
        await last_receipt(server.sockets[0].getsockname()[1], "/", 3, range(2, 5), send)
        for stream in streams:
            stream.close()
    assert (len(streams), sent) == (3, [2, 3, 4])
