"""Runs blocks as the engine does: what arrives is made to fit, then the block runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from backend.blocks.block import Block, Context
from backend.blocks.coercion import prepare
from backend.blocks.helpers import Helpers
from backend.blocks.resources import close_resources

Outputs = list[tuple[str, Any]]
Run = Callable[..., Awaitable[Outputs]]
Responsive = Callable[[], AbstractAsyncContextManager[None]]


@pytest_asyncio.fixture
async def run() -> AsyncIterator[Run]:
    """`await run(block, {pin: value}, trusted_hosts=…, log=…)` gives the pins it yields; what it opens is closed."""

    async def run_block(block: Block, arrived: dict[str, Any], outputs: Outputs | None = None, **facts: Any) -> Outputs:
        context = Context("run", "graph", 1, "node", node_run=1, token="token-1", **facts)
        outputs = [] if outputs is None else outputs
        input, _ = prepare(block)(arrived)
        async for pin_and_value in block.run(input, context):
            outputs.append(pin_and_value)
        return outputs

    yield run_block
    await close_resources()


@pytest_asyncio.fixture
async def helpers() -> AsyncIterator[Helpers]:
    """Helpers that give a task one second."""
    made = Helpers(seconds=1.0)
    yield made
    await made.close()


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """`children()` gives the ids of the processes this one has started and that have not ended."""
    return lambda: {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture
def responsive() -> Responsive:
    """`async with responsive():` fails if the event loop stood still for long while the body ran."""

    @asynccontextmanager
    async def watch() -> AsyncIterator[None]:
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.01)
                longest = max(longest, time.perf_counter() - before)

        watcher = asyncio.create_task(beat())
        try:
            yield
        finally:
            watcher.cancel()
        assert longest < 0.9, f"the event loop stood still for {longest:.2f} s"

    return watch
