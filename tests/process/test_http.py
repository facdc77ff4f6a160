"""Serving an ASGI application: when it is ready, how it ends, what it says when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from backend.process import http
from backend.process.http import serve_asgi
from backend.process.sockets import listen

CLIENT = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def serve(app: Starlette, use: Callable[[int], object]) -> float:
    """Serve `app`, call `use` with its port, stop; the seconds that the stop took."""
    listener = listen("127.0.0.1", 0, setting="PORT")
    port = listener.getsockname()[1]
    stopping, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve_asgi(app, listener, stopping, ready.set))
    await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        await use(port)
    began = time.monotonic()
    stopping.set()
    await serving
    return time.monotonic() - began


async def test_it_answers_from_the_moment_it_is_ready() -> None:
    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CLIENT)
        assert b"200" in await reader.readline()
        writer.close()

    await serve(Starlette(routes=[Route("/", answer)]), use)


async def test_an_open_stream_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DRAIN", 1)

    async def stream(request: object) -> StreamingResponse:
        async def forever():
            while True:
                yield b"data: x\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(forever(), media_type="text/event-stream")

    connections = []

    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        connections.append(writer)
        writer.write(CLIENT)
        await reader.readuntil(b"data: x")

    assert await serve(Starlette(routes=[Route("/", stream)]), use) < 10
    connections[0].close()


async def test_what_the_lifespan_raises_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(app: object):
        raise KeyError("no database")
        yield

    caplog.set_level(logging.DEBUG)
    with pytest.raises(KeyError, match="no database"):
        await serve(Starlette(lifespan=lifespan), asyncio.sleep)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_lifespan_ends_after_the_last_answer() -> None:
    said: list[str] = []

    @asynccontextmanager
    async def lifespan(app: object):
        said.append("begun")
        yield
        said.append("ended")

    await serve(Starlette(lifespan=lifespan), lambda port: asyncio.sleep(0))
    assert said == ["begun", "ended"]


async def test_a_connection_on_which_no_request_comes_whole_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEADERS_WITHIN", 0.05)

    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def use(port: int) -> None:
        for begun in (b"", b"GET / HT", CLIENT[:-2], CLIENT + CLIENT[:-2]):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            told = await reader.read()
            assert told.startswith(b"HTTP/1.1 200") is begun.startswith(CLIENT)
            writer.close()

    await serve(Starlette(routes=[Route("/", answer)]), use)


async def test_a_head_without_end_is_refused() -> None:
    async def use(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CLIENT[:-2] + b"X-Long: " + b"x" * 1_000_000)
        assert b" 431 " in await reader.readline()
        writer.close()

    await serve(Starlette(), use)
