"""Processes in which work runs that could last for ever or fill the memory, under limits kept by the kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any, Literal

import orjson

import backend
from backend.blocks.block import BlockError

SECONDS = 10.0  # of time for one task
GRACE = 5.0  # seconds more until a helper is ended from here
HELPERS = 4  # at most, per event loop; the next task waits

Task = Literal["template", "search"]


class TaskFailed(Exception):
    """The task ended within its limits, but with an error; `line` is where, if that is known."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.line = line


class _Died(Exception):
    """A helper ended before it answered, and not because the time was over."""


class Helpers:
    """The helper processes of an event loop, started when needed, each doing one task at a time."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._idle: list[Process] = []
        self._free = asyncio.Semaphore(HELPERS)

    async def do(self, task: Task, **arguments: Any) -> Any:
        """Return the result of a task (_helper.py). Raises TaskFailed, or BlockError when it met a limit."""
        request = orjson.dumps({"task": task, "arguments": arguments})
        async with self._free:
            reply = await self._ask(task, request)
        if "error" in reply:
            raise TaskFailed(reply["error"], reply["line"])
        return reply["result"]

    async def close(self) -> None:
        while self._idle:
            await _end(self._idle.pop())

    async def _ask(self, task: Task, request: bytes) -> dict[str, Any]:
        self._idle = [helper for helper in self._idle if helper.returncode is None]
        if self._idle:
            try:
                return await self._ask_one(self._idle.pop(), task, request)
            except _Died:
                pass  # perhaps before it got this task, which nobody has told us yet
        try:
            return await self._ask_one(await self._start(), task, request)
        except _Died:
            raise BlockError(f"The {task} needs more memory than it may have: make it simpler.") from None

    async def _ask_one(self, helper: Process, task: Task, request: bytes) -> dict[str, Any]:
        try:
            reply = await asyncio.wait_for(_exchange(helper, request), self._seconds + GRACE)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
            if isinstance(error, TimeoutError) or await helper.wait() == -signal.SIGALRM:
                message = f"The {task} took more than {self._seconds:g} seconds: make it simpler."
                raise BlockError(message) from None
            raise _Died from None
        else:
            self._idle.append(helper)
            return reply
        finally:
            if helper not in self._idle:
                await asyncio.shield(_end(helper))

    async def _start(self) -> Process:
        # Without the environment: whoever broke out would find no secret there.
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
        root = str(Path(backend.__path__[0]).parent)
        command = (sys.executable, "-P", "-m", "backend.blocks._helper", str(self._seconds))
        environment = {**kept, "PYTHONPATH": root}
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment)


async def _exchange(helper: Process, request: bytes) -> dict[str, Any]:
    assert helper.stdin is not None
    assert helper.stdout is not None
    helper.stdin.write(len(request).to_bytes(4, "big") + request)
    await helper.stdin.drain()
    length = int.from_bytes(await helper.stdout.readexactly(4), "big")
    return orjson.loads(await helper.stdout.readexactly(length))


async def _end(helper: Process) -> None:
    if helper.returncode is None:
        helper.kill()
    await helper.wait()
