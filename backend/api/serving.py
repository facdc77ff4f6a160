"""Serves an app that follows runs: its feed listens to the database and ends its streams when it is time to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from backend.api.services import Services
from backend.process.http import serve_asgi
from backend.store import api_keys
from backend.store.address import database_address
from backend.store.changes import TURN
from backend.store.events import EVENTS
from backend.store.feed import Feed
from backend.store.listener import listen
from backend.store.runs import QUEUED


async def serve_with_feed(
    app: ASGIApp,
    listener: socket.socket,
    stopping: asyncio.Event,
    on_ready: Callable[[], None],
    services: Services,
) -> None:
    """Serve until `stopping` is set."""

    def heard(channel: str, payload: str) -> None:
        (services.keys if channel == api_keys.CHANGED else services.feed).heard(channel, payload)

    channels = [EVENTS, QUEUED, TURN, api_keys.CHANGED]
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(listen(database_address(services.settings), channels, heard)),
            group.create_task(_close_in_time(services.feed, stopping)),
        ]
        await serve_asgi(app, listener, stopping, on_ready)
        for helper in helpers:
            helper.cancel()


async def _close_in_time(feed: Feed, stopping: asyncio.Event) -> None:
    await stopping.wait()
    feed.close()
