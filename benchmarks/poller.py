"""Asks a server 200 times a second for its number, and counts each request without a whole answer as failed."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from itertools import count

RATE = 200
# Connections that are kept: each second request goes over one of them, in turn. The others make a new one.
KEPT = 10
# Seconds that open requests are given once no more are sent.
LAST_ANSWERS = 5.0

NUMBER = re.compile(rb'"number": *(\d+)')


class Poller:
    """What has been seen of the server on `port` of this machine since `run()` began."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.kept: list[Connection | None] = [None] * KEPT
        self.requests = 0
        # How requests failed, and how often.
        self.failures: Counter[str] = Counter()
        # Idle connections that were closed in order, but without the announcement `Connection: close`. A client that
        # asks at that moment would fail.
        self.dropped = 0
        self.longest_gap = 0.0
        self._answered: float | None = None
        self._expected = 0
        self._arrived = asyncio.Event()
        self._arrived_at = 0.0
        self._upset_at = 0.0
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ask until cancelled, at fixed times, whether or not there are answers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in count():
            await asyncio.sleep(began + number / RATE - loop.time())
            place = number // 2 % KEPT if number % 2 else None
            task = asyncio.ensure_future(self._ask(place))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def end(self) -> None:
        """After `run()`: wait for the last answers."""
        if self._asking:
            _, unanswered = await asyncio.wait(self._asking, timeout=LAST_ANSWERS)
            self.failures["not answered"] += len(unanswered)
            for task in unanswered:
                task.cancel()
        kept, self.kept = self.kept, [None] * KEPT
        for connection in filter(None, kept):
            connection.close()

    def expect(self, number: int) -> None:
        """From now on answers with another number are old."""
        self._expected = number
        self._arrived.clear()

    async def first_answer(self) -> float:
        """When the expected number was answered first."""
        await self._arrived.wait()
        return self._arrived_at

    async def calm(self, seconds: float) -> None:
        """Wait until there has been no old answer and no failure for so long."""
        loop = asyncio.get_running_loop()
        while (left := max(self._upset_at, self._arrived_at) + seconds - loop.time()) > 0:
            await asyncio.sleep(left)

    async def _ask(self, place: int | None) -> None:
        """Over the connection kept in this place, which is empty meanwhile; over a new one if it is empty."""
        self.requests += 1
        connection = None
        if place is not None:
            connection, self.kept[place] = self.kept[place], None
        where = "kept" if connection else "new"
        try:
            connection = connection or await self._connect()
            number = await connection.ask(keep=place is not None)
        except OSError as error:
            how = os.strerror(error.errno).lower() if error.errno else error
            self.note_failure(f"{where} connection: {how}")
            return
        self._note_answer(number)
        if place is not None and self.kept[place] is None and not connection.closing:
            self.kept[place] = connection
        else:
            connection.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        return connection

    def note_failure(self, how: str) -> None:
        self.failures[how] += 1
        self._upset_at = asyncio.get_running_loop().time()

    def _note_answer(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._answered is not None:
            self.longest_gap = max(self.longest_gap, now - self._answered)
        self._answered = now
        if number != self._expected:
            self._upset_at = now
        elif not self._arrived.is_set():
            self._arrived_at = now
            self._arrived.set()


class Connection(asyncio.Protocol):
    """One connection: a request at a time, and a watch on how it ends between requests."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._answer: asyncio.Future[int] | None = None
        self._received = b""
        # The server has closed it, or has announced that it will.
        self.closing = False

    async def ask(self, *, keep: bool) -> int:
        """The number in the answer. ConnectionError if there is no whole one."""
        self._received = b""
        self._answer = asyncio.get_running_loop().create_future()
        wish = b"keep-alive" if keep else b"close"
        self._transport.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: %s\r\n\r\n" % wish)
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
        number = NUMBER.search(body)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            self._fail("gave another status, or no length")
        elif len(body) >= int(length[1]):
            self.closing = re.search(rb"\r\nconnection: *close", head, re.I) is not None
            if number:
                self._answer.set_result(int(number[1]))
            else:
                self._fail("gave no number")

    def eof_received(self) -> None:
        self._let_go(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go(exc)

    def _let_go(self, exc: Exception | None) -> None:
        self.closing = True
        if self._answer is not None and not self._answer.done():
            self._fail("reset" if exc else "closed without an answer")
        elif self in self._poller.kept:
            self._poller.kept[self._poller.kept.index(self)] = None
            if exc:
                self._poller.note_failure("idle connection reset")
            else:
                self._poller.dropped += 1

    def _fail(self, how: str) -> None:
        assert self._answer is not None
        self._answer.set_exception(ConnectionError(how))
        self._transport.close()
