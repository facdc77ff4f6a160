"""Wake-ups from PostgreSQL: a connection that listens, and comes back by itself when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncpg

from backend.store.connection import PASSING
from backend.store.session import open_session

# Seconds between attempts to listen again.
RETRY_EVERY = 0.5


async def listen(dsn: str, channels: Sequence[str], heard: Callable[[str, str], None]) -> None:
    """Call `heard(channel, payload)` for every notification, until cancelled.

    Notifications sent while the connection was away are lost; so after each (re)connect `heard(channel, "")` is called
    once per channel, which means: look for yourself.
    """
    while True:
        try:
            await _listen_once(dsn, channels, heard)
        except (*PASSING, asyncpg.PostgresError):
            await asyncio.sleep(RETRY_EVERY)


async def _listen_once(dsn: str, channels: Sequence[str], heard: Callable[[str, str], None]) -> None:
    connection = await open_session(dsn)
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    try:
        for channel in channels:
            await connection.add_listener(channel, lambda _c, _pid, name, payload: heard(name, str(payload)))
            heard(channel, "")
        await lost.wait()
    finally:
        connection.terminate()
