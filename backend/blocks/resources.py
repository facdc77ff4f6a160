"""What blocks keep open as long as an event loop runs (connections, helper processes), and how it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary


class Resource(Protocol):
    async def close(self) -> None: ...


R = TypeVar("R", bound=Resource)

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Any]] = WeakKeyDictionary()


def kept(key: Hashable, make: Callable[[], R]) -> R:
    """Return what the running event loop keeps under a key, made at the first call."""
    resources = _open.setdefault(asyncio.get_running_loop(), {})
    if key not in resources:
        resources[key] = make()
    return resources[key]


async def close_resources() -> None:
    """Close all that blocks opened in the running event loop; whoever runs blocks calls this before the loop ends."""
    for resource in _open.pop(asyncio.get_running_loop(), {}).values():
        await resource.close()
