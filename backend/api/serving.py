"""Serves an app that follows runs: its feed listens to the database and ends its streams when it is time to stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp

from backend.process.http import serve_asgi
from backend.settings import Settings
from backend.store.address import database_address
from backend.store.events import EVENTS
from backend.store.feed import Feed
from backend.store.listener import listen
from backend.store.runs import QUEUED


async def serve_with_feed(
    app: ASGIApp,
    listener: socket.socket,
    stopping: asyncio.Event,
    on_ready: Callable[[], None],
    feed: Feed,
    settings: Settings,
) -> None:
    """Serve until `stopping` is set."""
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(listen(database_address(settings), [EVENTS, QUEUED], feed.heard)),
            group.create_task(_close_in_time(feed, stopping)),
        ]
        await serve_asgi(app, listener, stopping, on_ready)
        for helper in helpers:
            helper.cancel()


async def _close_in_time(feed: Feed, stopping: asyncio.Event) -> None:
    await stopping.wait()
    feed.close()
