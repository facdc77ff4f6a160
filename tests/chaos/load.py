"""Keeps an environment busy: starts runs of every kind of agent, and is the web service that they talk to."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import web

from tests.chaos.agents import Kind

# Seconds between two starts of a run.
START_EVERY = 0.07


@dataclass
class World:
    """A web service that takes its time, and remembers what it was sent by Idempotency-Key."""

    chance: random.Random
    received: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    address: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.received[request.headers["Idempotency-Key"]].append(body)
        await asyncio.sleep(self.chance.uniform(0, 1))
        return web.json_response({"got": body["item"]})


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[World]:
    app = web.Application()
    app.router.add_post("/", world.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world.address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield world
    finally:
        await runner.cleanup()


@dataclass
class Load:
    """Starts runs by chance, of agents by their ids. `accepted` are those answered with 202."""

    api: aiohttp.ClientSession
    chance: random.Random
    agents: dict[UUID, Kind] = field(default_factory=dict[UUID, Kind])
    accepted: list[UUID] = field(default_factory=list[UUID])
    refused: Counter[str] = field(default_factory=Counter[str])

    async def store(self, kind: Kind) -> None:
        async with self.api.post("/api/v2/graphs", json=kind.graph) as answer:
            stored = await answer.json()
            assert (answer.status, stored["problems"]) == (201, [])
            self.agents[UUID(stored["id"])] = kind

    async def forever(self) -> None:
        agents, n = list(self.agents.items()), 0
        async with asyncio.TaskGroup() as group:
            while True:
                n += 1
                group.create_task(self._start(n, *self.chance.choice(agents)))
                await asyncio.sleep(START_EVERY)

    async def _start(self, n: int, graph_id: UUID, kind: Kind) -> None:
        try:
            async with self.api.post(f"/api/v2/graphs/{graph_id}/runs", json={"inputs": kind.inputs(n)}) as answer:
                if answer.status == 202:
                    self.accepted.append(UUID((await answer.json())["id"]))
                else:
                    self.refused[f"{answer.status} {answer.content_type}"] += 1
        except (aiohttp.ClientError, TimeoutError):
            self.refused["no answer"] += 1
