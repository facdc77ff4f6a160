"""Reads the Procfile."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
# A command without anything for the shell to do.
PLAIN_COMMAND = re.compile(r"[\w./@:+, =-]+")


class ProcfileError(Exception):
    """The Procfile cannot be used. The message is one sentence: which line, what was found, what is expected."""


@dataclass(frozen=True)
class Command:
    """One process to be run beside others: what Procfiles call a line.

    `ours` are AppProcesses. `argv` is what follows `python`, for a line that does not show it.
    """

    name: str
    line: str
    ours: bool
    env: dict[str, str]
    argv: Sequence[str] | None = None

    def after_python(self) -> Sequence[str] | None:
        """What follows `python` in a command of ours that just calls this interpreter; None for any other."""
        if not self.ours or self.argv:
            return self.argv
        program, *rest = self.line.split()
        if not PLAIN_COMMAND.fullmatch(self.line) or not rest or (rest[0].startswith("-") and rest[0] != "-m"):
            return None
        found = shutil.which(program, path=self.env.get("PATH"))
        return rest if found and Path(found).parent == Path(sys.executable).parent and "python" in program else None


def short_name(name: str) -> str:
    """As people call `rest.1`: `rest`; the second of a kind is `executor.2`."""
    return name.removesuffix(".1")


def read(path: Path) -> dict[str, str]:
    """The lines of a Procfile: name -> command, in their order. Raises ProcfileError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProcfileError(f"cannot read {path.absolute()} ({error}): run this in the project's folder.") from error
    commands: dict[str, str] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.startswith("#"):
            continue
        found = LINE.fullmatch(text)
        if not found or found[1] in commands:
            raise ProcfileError(
                f"line {number} of the Procfile is {text!r}: each is `name: command`, with a name of its own."
            )
        commands[found[1]] = found[2]
    if not commands:
        raise ProcfileError(f"{path.absolute()} lists no process: each line is `name: command`.")
    return commands
