"""Makes lines that are JSON objects (of structlog, pino and their like) readable: `info started port=8006`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# Where loggers put what happened, and how grave it is.
MESSAGES = ("event", "message", "msg")
LEVELS = ("level", "severity", "levelname")
# Every line has its time already.
TIMES = {"time", "timestamp", "ts", "@timestamp", "asctime"}
# The numbers of pino and bunyan.
NUMBERED = {10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "fatal"}
COLOURS = {"trace": "2", "debug": "2", "info": "32", "warn": "33", "warning": "33"}
RED, FAINT = "31", "36"
RESET = "\033[0m"


def readable(text: str, *, colour: bool) -> str:
    """`text` with those of its lines rendered that are an object with a message; all others as they are."""
    return "\n".join(_line(line, colour) if line.startswith("{") else line for line in text.split("\n"))


def _line(line: str, colour: bool) -> str:
    try:
        fields: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        return line
    message = next((name for name in MESSAGES if name in fields), None)
    if message is None:
        return line
    level = next((name for name in LEVELS if name in fields), None)
    shown = {message, level} | TIMES
    rest = {name: value for name, value in fields.items() if name not in shown}
    long = {name: value for name, value in rest.items() if isinstance(value, str) and "\n" in value}
    short = [_pair(name, value, colour) for name, value in rest.items() if name not in long]
    first = " ".join([*_level(fields.get(level or ""), colour), _plain(fields[message]), *short])
    return "\n".join([first, *_text(long)])


def _level(level: object, colour: bool) -> Iterator[str]:
    if level is not None:
        name = NUMBERED.get(level, str(level)) if isinstance(level, int) else _plain(level).lower()
        yield f"\033[{COLOURS.get(name, RED)}m{name}{RESET}" if colour else name


def _pair(name: str, value: object, colour: bool) -> str:
    return f"\033[{FAINT}m{name}={RESET}{_plain(value, ' =')}" if colour else f"{name}={_plain(value, ' =')}"


def _plain(value: object, quoted: str = "") -> str:
    """A string as it is, unless it is empty or has characters of `quoted`; anything else as JSON."""
    if isinstance(value, str) and not (quoted and (not value or any(each in value for each in f'{quoted}"'))):
        return value
    return json.dumps(value, ensure_ascii=False)


def _text(long: dict[str, str]) -> Iterator[str]:
    """What has lines of its own, such as a traceback."""
    for name, value in long.items():
        yield f"{name}:"
        yield from (f"    {line}" for line in value.rstrip("\n").split("\n"))
