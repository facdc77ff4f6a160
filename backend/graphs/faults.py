"""How a fault in an agent file is told: which part (a JSON Pointer), a stable code, and a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

MAX_FAULTS = 100

Path = tuple[str | int, ...]


class Fault(NamedTuple):
    """One fault: `pointer` is the JSON Pointer (RFC 6901) to the part, `code` is stable, `message` is for people."""

    pointer: str
    code: str
    message: str


class GraphFileError(Exception):
    """An agent file that cannot be read. `faults` lists what is wrong with it, at most MAX_FAULTS of them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(islice(faults, MAX_FAULTS))
        super().__init__("; ".join(fault.message for fault in self.faults))


def fault(path: Path, code: str, message: str) -> Fault:
    """A fault of the part at `path`; the message goes on from the part's name: `nodes[3].id` "has to be text"."""
    return Fault("".join(f"/{_escaped(part)}" for part in path), code, f"{_place(path)} {message}")


def _escaped(part: str | int) -> str:
    return printable(str(part)).replace("~", "~0").replace("/", "~1")


def _place(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in path)
    # The database cannot hold it where the sentence is stored.
    return text.replace("\0", "\\u0000").removeprefix(".") or "the file"


def printable(text: str) -> str:
    """The text with lone surrogates escaped: as they are, they could not be sent back to whoever asks what is wrong."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
