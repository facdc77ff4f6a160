"""Statements that are made until the database takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from backend.store.connection import PASSING

# Seconds between attempts while the database is away.
RETRY_EVERY = 0.25

T = TypeVar("T")


async def patiently(statement: Callable[[], Awaitable[T]]) -> T:
    """The result of a statement, however long the database is away."""
    while True:
        try:
            return await statement()
        except PASSING:
            await asyncio.sleep(RETRY_EVERY)
