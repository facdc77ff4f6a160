"""Obeys other terminals of the same user: a socket that takes requests and gives answers as JSON lines.

    {"do": "restart", "names": ["rest"]}     -> {"restarted": [{"name", "done", "seconds", "failure"}]}
    {"do": "logs", "names": [], "lines": 100, "follow": true}
                                             -> {"piece": {"name", "time", "colour", "text"}} each, {"missed": lines},
                                                and {"end": true} where it does not follow
    anything else                            -> {"error": sentence}

No names stand for all. Names are as people write them: `rest`, `executor.2`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from backend.process.output import SYSTEM
from backend.process.reload import listed
from backend.process.sockets import bind_privately, forget_address
from backend.process.tail import Follower, Piece, Tail
from backend.process.unit import Exchange, Unit

# Seconds for a request to arrive; who says nothing is let go.
PATIENCE = 10.0
# Lines that are sent to those who do not say how many.
LINES = 100
UCRED = struct.Struct("3i")
# macOS: `struct xucred` begins with its version and the user.
LOCAL_PEERCRED, XUCRED = 1, struct.Struct("2I")


class Crew(Protocol):
    """Those who are asked."""

    tail: Tail
    stopping: asyncio.Event

    def units(self) -> list[Unit]: ...

    def say(self, text: str) -> None: ...


class BadRequest(Exception):
    """It cannot be obeyed. The message is one sentence for a person."""


@dataclass(frozen=True)
class Restarted:
    """What came of one restart; `failure` is None if it was done."""

    name: str
    done: bool
    seconds: float
    failure: str | None


async def restart(crew: Crew, units: Sequence[Unit]) -> list[Restarted]:
    """Exchange each process for a new one of the code as it is now, and say how it went; raises BadRequest."""
    if crew.stopping.is_set():
        raise BadRequest("The server is stopping.")
    if early := [unit.short_name for unit in units if unit.current is None]:
        raise BadRequest(f"{listed(early)} cannot be restarted yet: the first start is under way.")
    began = time.monotonic()
    took: dict[Unit, float] = {}

    async def exchange(unit: Unit) -> Exchange:
        result = await unit.exchange(asyncio.Event())
        took[unit] = round(time.monotonic() - began, 3)
        return result

    results = await asyncio.gather(*map(exchange, units))
    if done := [each.unit.short_name for each in results if each.done]:
        crew.say(f"Restarted {listed(done)} in {(time.monotonic() - began) * 1000:.0f} ms.")
    for each in results:
        if each.failure:
            state = "the one before goes on" if each.unit.serves else f"it is {each.unit.state}"
            crew.say(f"{each.failure}\n{each.unit.short_name} was not restarted: {state}.")
    return [Restarted(each.unit.short_name, each.done, took[each.unit], _reason(each)) for each in results]


def _reason(result: Exchange) -> str | None:
    if result.done:
        return None
    return result.failure.short if result.failure else "the server is stopping"


class Control:
    """The listening end. Belongs to the event loop of the crew."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._clients: set[asyncio.Task[None]] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.address = bind_privately(self._socket, "control")

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._meet, sock=self._socket)

    async def close(self) -> None:
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        forget_address(self.address)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._clients.add(task)
        try:
            with suppress(OSError, TimeoutError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if _user_of(writer.get_extra_info("socket")) not in (0, os.geteuid()):
            return await _send(writer, error="This server belongs to another user.")
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
            except ValueError:
                return await _send(writer, error="The request is too long: 64 kB are taken.")
            if not line:
                return
            try:
                await self._obey(_fields(line), reader, writer)
            except BadRequest as error:
                await _send(writer, error=str(error))

    async def _obey(self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match request.pop("do", None):
            case "restart":
                units = self._chosen(**_checked(request, names=[]))
                await _send(writer, restarted=[asdict(each) for each in await restart(self._crew, units)])
            case "logs":
                wanted = _checked(request, names=[], lines=LINES, follow=False)
                await self._send_logs(reader, writer, **wanted)
            case other:
                raise BadRequest(f"Cannot do {json.dumps(other)}: there are restart and logs.")

    def _chosen(self, names: Sequence[str]) -> list[Unit]:
        units = {unit.short_name: unit for unit in self._crew.units()}
        self._check(names, units)
        return [unit for name, unit in units.items() if not names or name in names]

    def _check(self, names: Sequence[str], known: Sequence[str] | dict[str, Unit]) -> None:
        if unknown := [name for name in names if name not in known]:
            raise BadRequest(f"There is no process {listed(unknown)}: there are {listed(list(known))}.")

    async def _send_logs(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        names: Sequence[str],
        lines: int,
        follow: bool,
    ) -> None:
        full = {unit.short_name: unit.name for unit in self._crew.units()} | {SYSTEM: SYSTEM}
        self._check(names, list(full))
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)

        follower = Follower([full[name] for name in names] or None, wake)
        self._crew.tail.follow(follower, lines)
        try:
            await _send_all(writer, follower)
            if not follow:
                return await _send(writer, end=True)
            gone = asyncio.ensure_future(reader.read(1))
            while await _first(news, gone):
                news.clear()
                await _send_all(writer, follower)
        finally:
            self._crew.tail.forget(follower)


async def _first(news: asyncio.Event, gone: asyncio.Future[bytes]) -> bool:
    """Wait for news; False when the client says something instead, or has gone."""
    waiting = asyncio.ensure_future(news.wait())
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return not gone.done()


async def _send_all(writer: asyncio.StreamWriter, follower: Follower) -> None:
    pieces, missed = follower.take()
    for piece in pieces:
        await _send(writer, piece=_shown(piece))
    if missed:
        await _send(writer, missed=missed)


def _shown(piece: Piece) -> dict[str, object]:
    text = piece.text.decode(errors="replace")
    return {"name": piece.name, "time": piece.time, "colour": piece.colour, "text": text}


async def _send(writer: asyncio.StreamWriter, **answer: object) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


def _fields(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadRequest('A request is a line with a JSON object, such as {"do": "restart", "names": []}.')
    return found  # pyright: ignore[reportUnknownVariableType]


def _checked(request: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """The fields of a request, each of the type of its default."""
    if unknown := [name for name in request if name not in defaults]:
        raise BadRequest(f"{listed(unknown)} cannot be given here: there are {listed(list(defaults))}.")
    for name, value in request.items():
        if type(value) is not type(defaults[name]) or (name == "names" and not _are_texts(value)):
            raise BadRequest(f"{name} is {json.dumps(value)}: it has to be such as {json.dumps(defaults[name])}.")
    return defaults | request


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _user_of(client: socket.socket) -> int:
    if sys.platform == "linux":
        return UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))[1]
    return XUCRED.unpack(client.getsockopt(0, LOCAL_PEERCRED, 128)[: XUCRED.size])[1]
