"""What the processes say, on its way to the terminal: whole lines in large pieces, nothing lost."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, TextIO

from honcho.printer import Message, Printer

# Bytes read at once, and the length from which a line is passed on in parts.
PIECE = 65_536
LONGEST_LINE = 1_048_576
# Pieces of one process that may wait to be printed; then the process itself has to wait.
WAITING_PIECES = 8


def whole_lines(pipe: IO[bytes]) -> Iterator[bytes]:
    """Pieces of `pipe` that end with a line end, except perhaps the last one."""
    rest = b""
    while piece := os.read(pipe.fileno(), PIECE):
        head, end, tail = piece.rpartition(b"\n")
        if end:
            yield rest + head + end
            rest = tail
        else:
            rest += piece
        if len(rest) > LONGEST_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


class Events:
    """The queue between the supervisor's threads and honcho's loop.

    What a process says (bytes) waits in `put` while WAITING_PIECES of the same process are still to be printed.
    Everything else never waits there, so that signal handlers may put it. `get` waits until there is something, or
    the queue is closed and empty.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message | Callable[[], object] | None] = queue.SimpleQueue()
        self._room: dict[str, threading.Semaphore] = {}
        self._closed = False
        self._error: BaseException | None = None

    def put(self, message: Message) -> None:
        if isinstance(message.data, bytes):
            self._room.setdefault(message.name, threading.Semaphore(WAITING_PIECES)).acquire()
        self._queue.put(message)

    def call(self, function: Callable[[], object]) -> None:
        """Have `function` called in the thread that reads."""
        self._queue.put(function)

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more will come. `error` is raised where the queue is read."""
        self._error = error
        self._queue.put(None)

    def get(self, timeout: float) -> Message:
        del timeout  # honcho's loop would wake up ten times a second
        while callable(message := self._next()):
            message()
        if message is None:
            raise self._error or queue.Empty
        if isinstance(message.data, bytes):
            self._room[message.name].release()
        return message

    def _next(self) -> Message | Callable[[], object] | None:
        if self._closed:
            with suppress(queue.Empty):
                return self._queue.get_nowait()
            return None
        message = self._queue.get()
        self._closed = message is None
        return self._next() if message is None else message


def notice(text: str) -> Message:
    """A line of the supervisor itself."""
    return Message(type="line", data=text, time=datetime.now(), name="system", colour=None)


class PiecePrinter(Printer):
    """honcho's lines (`12:00:00 rest.1 | …`), a piece of many lines at once."""

    def write(self, message: Message) -> None:
        prefix = self._prefix(message)
        lines = _text(message).removesuffix("\n").split("\n")
        _write(self.output, "".join(f"{prefix}{line.rstrip(chr(13))}\n" for line in lines))

    def _prefix(self, message: Message) -> str:
        prefix = f"{message.time:%H:%M:%S} {(message.name or '').ljust(self.width)} | "
        return f"\033[0m\033[{message.colour}m{prefix}\033[0m" if self.colour and message.colour else prefix


class JsonPrinter(Printer):
    """For machines: what the processes say as they say it (one JSON object a line), and the supervisor likewise."""

    def write(self, message: Message) -> None:
        text = _text(message).removesuffix("\n") + "\n"
        _write(self.output, text if isinstance(message.data, bytes) else _as_json(text))


def _write(output: TextIO, text: str) -> None:
    """All at once; what the terminal's encoding cannot show becomes a question mark."""
    encoding = output.encoding or "utf-8"
    output.write(text.encode(encoding, "replace").decode(encoding))
    output.flush()


def _text(message: Message) -> str:
    return message.data.decode(errors="replace") if isinstance(message.data, bytes) else str(message.data)


def _as_json(text: str) -> str:
    now = datetime.now(UTC).isoformat()
    lines = [line for line in text.split("\n") if line.strip()]
    return "".join(json.dumps({"timestamp": now, "level": "info", "event": line}) + "\n" for line in lines)


def in_colour(output: TextIO) -> bool:
    """Whether people see colours there: on a terminal, unless NO_COLOR is set."""
    return output.isatty() and not os.environ.get("NO_COLOR")
