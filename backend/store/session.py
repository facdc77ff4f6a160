"""How a session with PostgreSQL is opened: neither end waits long for a machine that is gone without a word.

Left to itself TCP gives up on what it has sent after a quarter of an hour, and on a silent peer never; until then a
statement hangs, a listener hears nothing and thinks that all is quiet, and locks of an open transaction are held.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import asyncpg

# Seconds until an end that hears nothing from the other gives the connection up, and that a connect may take.
LOST_AFTER = 5
# Seconds of silence before an end asks whether the other is there, and between such questions.
ASK_AFTER = 2
ASK_EVERY = 1
QUESTIONS = (LOST_AFTER - ASK_AFTER) // ASK_EVERY

# By the names of Linux; macOS has its own for the first, and nothing like the last.
OPTIONS = {
    "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE": ASK_AFTER,
    "TCP_KEEPINTVL": ASK_EVERY,
    "TCP_KEEPCNT": QUESTIONS,
    "TCP_USER_TIMEOUT": LOST_AFTER * 1000,
}

# The same for the server's end, and for a client that stands still within a transaction. A unix socket has no use for
# the first four.
SERVER_SETTINGS = {
    "tcp_keepalives_idle": str(ASK_AFTER),
    "tcp_keepalives_interval": str(ASK_EVERY),
    "tcp_keepalives_count": str(QUESTIONS),
    "tcp_user_timeout": str(LOST_AFTER * 1000),
    "idle_in_transaction_session_timeout": str(LOST_AFTER * 1000),
}


class Connection(asyncpg.Connection):
    """One that ends when its server is gone."""

    def __init__(self, protocol: Any, transport: asyncio.BaseTransport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        _be_watchful(transport.get_extra_info("socket"))


def _be_watchful(connection: socket.socket) -> None:
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in OPTIONS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


# What asyncpg's `connect` and `create_pool` take.
SESSION: dict[str, Any] = {
    "connection_class": Connection,
    "server_settings": SERVER_SETTINGS,
    "timeout": LOST_AFTER,
}


async def open_session(dsn: str) -> asyncpg.Connection:
    """A connection of its own. Raises what asyncpg does, and TimeoutError."""
    return await asyncpg.connect(dsn, **SESSION)
