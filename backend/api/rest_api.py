"""The REST API: its app, and the process that serves it."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import FastAPI

from backend.api import (
    blocks,
    credentials,
    graph_settings,
    graphs,
    health,
    openapi,
    pages,
    problem,
    reruns,
    reviews,
    runs,
    streams,
)
from backend.api.metrics import Metrics
from backend.api.middleware import LocalGuard, Observed
from backend.api.services import Services
from backend.api.serving import serve_with_feed
from backend.api.streams import sse_chunk
from backend.blocks import registry
from backend.blocks.resources import close_resources
from backend.errors import BadRequest, DatabaseAway, ForeignOrigin, InternalError, Unprocessable, WrongHost
from backend.process import sockets
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store.connection import open_pool
from backend.store.feed import Feed

# What any operation may answer.
COMMON = problem.documented(BadRequest, WrongHost, ForeignOrigin, Unprocessable, InternalError, DatabaseAway)


class AgentServer(AsyncAppProcess):
    """Serves the REST API on AGENT_API_HOST and AGENT_API_PORT."""

    name = "rest"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        # First of all, as a port that is taken is told at once.
        listener = sockets.listen(settings.agent_api_host, settings.agent_api_port, setting="AGENT_API_PORT")
        pool = await open_pool(settings)
        feed = Feed(pool, sse_chunk)
        app = build_app(Services(settings, pool, feed, Metrics()))
        address = sockets.url("http", listener)
        on_ready = partial(self.ready, address=address, docs=f"{address}/docs")
        try:
            await serve_with_feed(app, listener, stopping, on_ready, feed, settings)
        finally:
            await close_resources()
            await pool.close()


def build_app(services: Services) -> FastAPI:
    """The whole API as an ASGI app."""
    registry.blocks()  # imports them: now, not in the first request
    app = FastAPI(
        title="Agent server",
        summary="Stores agents, runs them durably, and streams their progress.",
        version="2",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=COMMON,
    )
    app.state.services = services
    # Before /runs/{id}, which would take /runs/reviews for a run.
    for resource in (reviews, graphs, graph_settings, runs, reruns, streams, blocks, credentials, health, pages):
        app.include_router(resource.router)
    app.add_middleware(LocalGuard, host=services.settings.agent_api_host)
    app.add_middleware(Observed, metrics=services.metrics)
    problem.install(app)
    openapi.install(app)
    return app
