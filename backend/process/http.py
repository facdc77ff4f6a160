"""Serves an ASGI application on a socket until told to stop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn

# Seconds that open requests and streams have to end; then they are cut.
DRAIN = 3
# Seconds between the last accepted connection and the end of idle ones: uvicorn takes one that was just accepted, its
# request still unread, for idle and would reset it.
LINGER = 0.05

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
    lifespan = _Lifespan(app)
    server = _Server(_config(lifespan, access_log=logging.getLogger("uvicorn.access").isEnabledFor(logging.DEBUG)))
    server.on_ready = on_ready
    watcher = asyncio.ensure_future(_stop_server(server, stopping))
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn's answer to a lifespan that failed
        raise lifespan.error or RuntimeError("the application did not start") from None
    finally:
        watcher.cancel()
        listener.close()


def _config(app: Application, *, access_log: bool) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        http="httptools",
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=DRAIN,
    )


async def _stop_server(server: uvicorn.Server, stopping: asyncio.Event) -> None:
    await stopping.wait()
    server.should_exit = True


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which says when it accepts."""

    on_ready: Callable[[], None]

    def capture_signals(self) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nullcontext()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log.disabled = True  # what it would tell of a failure is raised instead
        try:
            await super().startup(sockets)
        finally:
            log.disabled = False
        self.on_ready()


class _Lifespan:
    """Keeps what the lifespan raised, which uvicorn only logs."""

    def __init__(self, app: Application) -> None:
        self.error: BaseException | None = None
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if scope["type"] == "lifespan":
                self.error = error
            raise
