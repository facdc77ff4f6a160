"""Real servers on this machine that remember what they were asked, and a name server that changes its mind."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A real server on 127.0.0.1 (and 127.0.0.2) that remembers what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answer: Handler = self._echo

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def trust(self) -> tuple[str, ...]:
        return (f"127.0.0.1:{self.port}",)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.read())
        return await self.answer(request)

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.path})


@pytest_asyncio.fixture
async def sites() -> AsyncIterator[Callable[[], Awaitable[Site]]]:
    runners: list[web.AppRunner] = []

    async def start() -> Site:
        listener = socket.create_server(("0.0.0.0", 0))
        site = Site(listener.getsockname()[1])
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", site.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        runners.append(runner)
        return site

    yield start
    for runner in runners:
        await runner.cleanup()


def redirect(target: str, status: int = 302) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target})

    return answer


def plain(**response: Any) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(**response)

    return answer


class ChangingResolver(AbstractResolver):
    """Answers with one address after the other, as a hostile name server does."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass
