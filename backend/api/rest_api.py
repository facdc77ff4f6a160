"""The REST API: its app, and the process that serves it."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import FastAPI

from backend.api import (
    api_keys,
    blocks,
    credentials,
    files,
    graph_settings,
    graph_versions,
    graphs,
    health,
    library,
    openapi,
    pages,
    problem,
    reruns,
    reviews,
    runs,
    schedules,
    search,
    sharing,
    starts,
    streams,
    trigger_deliveries,
    triggers,
    webhook_messages,
    webhooks,
)
from backend.api.access import Permission
from backend.api.authentication import Keys, login_is_needed
from backend.api.metrics import Metrics
from backend.api.middleware import surround
from backend.api.services import Services
from backend.api.serving import serve_with_feed
from backend.api.streams import sse_chunk
from backend.blocks import registry
from backend.blocks.resources import close_resources
from backend.errors import (
    BadRequest,
    DatabaseAway,
    ForeignOrigin,
    InternalError,
    InvalidApiKey,
    MissingApiKey,
    MissingPermissions,
    RateLimited,
    Unprocessable,
    WrongHost,
)
from backend.process import sockets
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store.api_keys import make_first
from backend.store.connection import Pool, open_pool
from backend.store.feed import Feed
from backend.store.sealing import sealer

# What any operation may answer.
COMMON = problem.documented(
    BadRequest,
    WrongHost,
    MissingApiKey,
    InvalidApiKey,
    MissingPermissions,
    ForeignOrigin,
    Unprocessable,
    RateLimited,
    InternalError,
    DatabaseAway,
)


class AgentServer(AsyncAppProcess):
    """Serves the REST API on AGENT_API_HOST and AGENT_API_PORT."""

    name = "rest"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        # First of all, as a port that is taken is told at once.
        listener = sockets.listen(settings.agent_api_host, settings.agent_api_port, setting="AGENT_API_PORT")
        sealer(settings)  # a key that is missing or wrong is told now
        pool = await open_pool(settings)
        await show_first_key(settings, pool)
        feed = Feed(pool, sse_chunk)
        services = Services(settings, pool, feed, Metrics(), Keys(pool, settings))
        app = build_app(services)
        address = sockets.url("http", listener)
        on_ready = partial(self.ready, address=address, docs=f"{address}/docs")
        try:
            await serve_with_feed(app, listener, stopping, on_ready, services)
        finally:
            await close_resources()
            await pool.close()


async def show_first_key(settings: Settings, pool: Pool) -> None:
    """Where a key is needed and nobody has one: make one that may do anything, and show it this once."""
    given = settings.agent_api_key.get_secret_value() if settings.agent_api_key else None
    if login_is_needed(settings) and (key := await make_first(pool, list(Permission), given)):
        print(f"This server needs an API key. The first one, shown only now: {key}", flush=True)  # noqa: T201


def build_app(services: Services) -> FastAPI:
    """The whole API as an ASGI app."""
    registry.blocks()  # imports them: now, not in the first request
    app = described()
    app.state.services = services
    surround(app, services, host=services.settings.agent_api_host)
    problem.install(app)
    return app


def described() -> FastAPI:
    """An app with all operations, and nothing to work with: enough for the OpenAPI document."""
    app = FastAPI(
        title="Agent server",
        summary="Stores agents, runs them durably, and streams their progress.",
        version="2",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        webhooks=webhook_messages.router,
    )
    # An address is looked for in this order: first comes what is asked for most.
    for resource in (
        runs,
        starts,
        reviews,
        graphs,
        graph_versions,
        graph_settings,
        library,
        search,
        reruns,
        sharing,
        schedules,
        triggers,
        trigger_deliveries,
        streams,
        webhooks,
        blocks,
        api_keys,
        credentials,
        files,
        health,
        pages,
    ):
        # As they are: `include_router` would make each of them a second time, in the first request.
        app.router.routes.extend(resource.router.routes)
    openapi.install(app, COMMON)
    return app
