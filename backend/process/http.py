"""Serves an ASGI application on a socket until told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Seconds that open requests and streams have to end; then they are cut.
DRAIN = 3
# Seconds that connections without a request are kept after the last was accepted: one may just be on its way. Whoever
# gets an answer in that time is told that it is the last on this connection.
LINGER = 0.25
LOOK_EVERY = 0.01
# Seconds that a client may leave what it was sent unacknowledged, or unread: then it is taken for gone. TCP itself
# tries for a quarter of an hour.
GONE_AFTER = 60
# Seconds that a client has for the head of a request.
HEADERS_WITHIN = 15.0
# Bytes that the head of a request may have, about.
MAX_HEAD = 64 * 1024
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

log = logging.getLogger("uvicorn.error")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


async def serve_asgi(
    app: Application, listener: socket.socket, stopping: asyncio.Event, on_ready: Callable[[], None]
) -> None:
    """Run the lifespan of `app` and answer requests; `on_ready` is called once it accepts.

    An error in the start of the lifespan is raised as it is. Open streams do not hold the end up for longer than
    DRAIN seconds.
    """
    _give_up_in_time(listener)
    guarded = _Guarded(app, stopping)
    server = _Server(_config(guarded))
    server.on_ready = on_ready
    server.stopping = stopping
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn's answer to a lifespan that failed
        raise guarded.error or RuntimeError("the application did not start") from None
    finally:
        listener.close()


def _give_up_in_time(listener: socket.socket) -> None:
    """Connections have it from the socket that accepts them."""
    if listener.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER * 1000)


def _config(app: Application) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        http=_Punctual,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
    )


class _Punctual(HttpToolsProtocol):
    """uvicorn's protocol, which ends a connection when the head of its first request, or of one that has begun, does
    not come or does not end."""

    _too_late: asyncio.TimerHandle | None = None
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        super().data_received(data)
        if self._too_late and self._head_size > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._too_late is None:
            self._expect()

    def on_headers_complete(self) -> None:
        self._expect_no_more()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._head_size = 0
        self._too_late = self.loop.call_later(HEADERS_WITHIN, self.transport.close)

    def _expect_no_more(self) -> None:
        if self._too_late:
            self._too_late.cancel()
            self._too_late = None


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which says when it accepts."""

    on_ready: Callable[[], None]
    stopping: asyncio.Event

    def capture_signals(self) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext()

    async def main_loop(self) -> None:
        """Look after the date in the headers once a second, and end at once; uvicorn's own looks ten times a second."""
        while not (await self.on_tick(0) or self.stopping.is_set()):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # what comes from now on is the successor's
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while self.server_state.connections:  # noqa: ASYNC110 - their end is no event
                    await asyncio.sleep(LOOK_EVERY)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log.disabled = True  # what it would tell of a failure is raised instead
        try:
            await super().startup(sockets)
        finally:
            log.disabled = False
        self.on_ready()


class _Guarded:
    """Keeps what the lifespan raised, which uvicorn only logs, and announces the end of connections."""

    def __init__(self, app: Application, stopping: asyncio.Event) -> None:
        self.error: BaseException | None = None
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, partial(self._send, send))
        elif scope["type"] == "lifespan":
            try:
                await self._app(scope, receive, send)
            except BaseException as error:
                self.error = error
                raise
        else:
            await self._app(scope, receive, send)

    async def _send(self, send: Send, message: Scope) -> None:
        if message["type"] == "http.response.start" and self._stopping.is_set():
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)
