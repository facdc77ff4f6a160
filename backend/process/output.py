"""What the processes say, on its way to the terminal: whole lines in large pieces, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, TextIO

from honcho.printer import Message, Printer

from backend.process.structured import readable

# Bytes read at once, and the length from which a line is passed on in parts.
PIECE = 65_536
LONGEST_LINE = 1_048_576
# Pieces of one process that may wait to be printed; then the process itself has to wait.
WAITING_PIECES = 8

# What the supervisor itself says is told under this name.
SYSTEM = "system"
# Colours, moves of the cursor (CSI) and links (OSC): nothing for a file or for `grep`.
FOR_TERMINALS = re.compile(r"\033(?:\[[0-?]*[ -/]*[@-~]|\][^\007\033]*(?:\007|\033\\))")


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
    return Message(type="line", data=text, time=datetime.now(), name=SYSTEM, colour=None)


class Lines(Printer):
    """honcho's printer for one piece of many lines at once. Each in `also` gets every message as well, but for what is
    `private`: that is shown this once, and kept nowhere."""

    also: Sequence[Callable[[Message], None]] = ()
    private: re.Pattern[bytes] | None = None
    # The process whose lines alone are shown, beside what the supervisor says.
    only: str | None = None

    def write(self, message: Message) -> None:
        kept = message
        if self.private and isinstance(message.data, bytes):
            kept = message._replace(data=self.private.sub("…".encode(), message.data))
        for hear in self.also:
            hear(kept)
        if self.only in (None, message.name) or message.name == SYSTEM:
            self.show(message)

    def show(self, message: Message) -> None:
        raise NotImplementedError


class PiecePrinter(Lines):
    """For people: `12:00:00 rest.1 | …`. What is meant for terminals is left out where there is none."""

    def show(self, message: Message) -> None:
        prefix = self._prefix(message)
        text = text_of(message)
        if isinstance(message.data, bytes) and (text.startswith("{") or "\n{" in text):
            text = readable(text, colour=self.colour)
        if not self.colour:
            text = plain(text)
        lines = text.removesuffix("\n").split("\n")
        _write(self.output, "".join(f"{prefix}{line.rstrip(chr(13))}\n" for line in lines))

    def _prefix(self, message: Message) -> str:
        prefix = f"{message.time:%H:%M:%S} {(message.name or '').ljust(self.width)} | "
        return f"\033[0m\033[{message.colour}m{prefix}\033[0m" if self.colour and message.colour else prefix


class JsonPrinter(Lines):
    """For machines: what the processes say as they say it (one JSON object a line), and the supervisor likewise."""

    def show(self, message: Message) -> None:
        text = text_of(message).removesuffix("\n") + "\n"
        _write(self.output, text if isinstance(message.data, bytes) else _as_json(plain(text)))


def _write(output: TextIO, text: str) -> None:
    """All at once; what the terminal's encoding cannot show becomes a question mark.

    Raises BrokenPipeError when nobody reads any more. A disk that is full costs the lines, not the processes.
    """
    encoding = output.encoding or "utf-8"
    try:
        output.write(text.encode(encoding, "replace").decode(encoding))
        output.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def plain(text: str) -> str:
    """Without what only terminals understand."""
    return FOR_TERMINALS.sub("", text) if "\033" in text else text


def text_of(message: Message) -> str:
    return message.data.decode(errors="replace") if isinstance(message.data, bytes) else str(message.data)


def _as_json(text: str) -> str:
    now = datetime.now(UTC).isoformat()
    lines = [line for line in text.split("\n") if line.strip()]
    return "".join(json.dumps({"timestamp": now, "level": "info", "event": line}) + "\n" for line in lines)


def in_colour(output: TextIO) -> bool:
    """Whether people see colours there: on a terminal, unless NO_COLOR is set."""
    return output.isatty() and not os.environ.get("NO_COLOR")
