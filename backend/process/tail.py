"""Keeps the last of what was said, for those who ask for it later, and passes on what comes to those who follow."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from honcho.printer import Message

from backend.process.output import text_of

# Bytes that are kept in all; and those that may wait for one follower.
KEPT = 1_048_576
WAITING = 1_048_576
# Bytes that a piece takes beside its text: many have but one short line.
OVERHEAD = 160


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines of one process. `number` counts all pieces, `time` is in seconds since 1970."""

    number: int
    name: str
    time: float
    colour: str | None
    text: bytes

    @property
    def size(self) -> int:
        return len(self.text) + OVERHEAD

    @property
    def lines(self) -> int:
        return self.text.count(b"\n") + (not self.text.endswith(b"\n"))


class Follower:
    """Takes what is said from now on by `names` (None: by all). `wake` is called when there is something to take."""

    def __init__(self, names: Collection[str] | None, wake: Callable[[], None]) -> None:
        self.names = names
        self._wake = wake
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._missed = 0

    def give(self, piece: Piece) -> None:
        """Never waits: what is too much is only counted."""
        with self._lock:
            idle = not self._pieces and not self._missed
            if self._missed or (self._pieces and self._size + piece.size > WAITING):
                self._missed += piece.lines
            else:
                self._pieces.append(piece)
                self._size += piece.size
        if idle:
            self._wake()

    def take(self) -> tuple[list[Piece], int]:
        """What has come, and how many lines after it were too many to be kept."""
        with self._lock:
            pieces, missed = list(self._pieces), self._missed
            self._pieces.clear()
            self._size = self._missed = 0
        return pieces, missed


class Tail:
    """Hears in one thread, is asked in another. Who says much loses its own oldest lines, not those of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._kept: dict[str, deque[Piece]] = {}
        self._sizes: dict[str, int] = {}
        self._followers: list[Follower] = []

    def hear(self, message: Message) -> None:
        text = message.data if isinstance(message.data, bytes) else text_of(message).encode()
        with self._lock:
            piece = Piece(next(self._numbers), message.name, message.time.timestamp(), message.colour, text)
            self._keep(piece)
            for follower in self._followers:
                if follower.names is None or piece.name in follower.names:
                    follower.give(piece)

    def follow(self, follower: Follower, lines: int) -> None:
        """Give it the last `lines` now, and everything from here on until it is forgotten."""
        with self._lock:
            for piece in self._last(follower.names, lines):
                follower.give(piece)
            self._followers.append(follower)

    def forget(self, follower: Follower) -> None:
        with self._lock:
            self._followers.remove(follower)

    def _keep(self, piece: Piece) -> None:
        self._kept.setdefault(piece.name, deque()).append(piece)
        self._sizes[piece.name] = self._sizes.get(piece.name, 0) + piece.size
        while sum(self._sizes.values()) > KEPT:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self._sizes[largest] -= self._kept[largest].popleft().size

    def _last(self, names: Collection[str] | None, lines: int) -> list[Piece]:
        chosen = [pieces for name, pieces in self._kept.items() if names is None or name in names]
        found: list[Piece] = []
        for piece in sorted(itertools.chain(*chosen), key=lambda each: each.number, reverse=True):
            if lines <= 0:
                break
            found.append(_end_of(piece, lines))
            lines -= piece.lines
        return found[::-1]


def _end_of(piece: Piece, lines: int) -> Piece:
    """Its last `lines`, if it has more."""
    if piece.lines <= lines:
        return piece
    whole = piece.text.removesuffix(b"\n").split(b"\n")
    return replace(piece, text=b"\n".join(whole[-lines:]) + b"\n")
