"""The program of a helper process (helpers.py): does what strangers ask for where it can neither last nor swell.

Requests and replies are JSON, each after its length in four bytes. The kernel ends the process at a limit, whatever it
is doing; so does the end of the requests.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import orjson

MAX_MEMORY = 512 * 1024 * 1024  # bytes of address space


def serve(requests: BinaryIO, replies: BinaryIO, seconds: float) -> None:
    """Answer each request {task, arguments} with {result} or {error, line}."""
    while request := _read(requests):
        do = _imported(request["task"])
        _set_alarm(seconds)
        try:
            reply = {"result": do(**request["arguments"])}
        except MemoryError:
            os._exit(1)  # what is left of this process could be too little to say it
        except Exception as error:  # whatever a stranger's template raises is its own fault, to be told
            reply = {"error": str(error) or type(error).__name__, "line": getattr(error, "lineno", None)}
        _set_alarm(0)
        message = orjson.dumps(reply)
        replies.write(len(message).to_bytes(4, "big") + message)
        replies.flush()


def _imported(task: str) -> Callable[..., Any]:
    # Each helper imports what it is asked for: neither library is small.
    if task == "template":
        from backend.blocks._sandbox import render  # noqa: PLC0415

        return render
    from backend.blocks._search import search  # noqa: PLC0415

    return search


def _read(requests: BinaryIO) -> dict[str, Any]:
    length = int.from_bytes(requests.read(4), "big")
    return json.loads(requests.read(length)) if length else {}  # not orjson: whole numbers may be of any size


def _set_alarm(seconds: float) -> None:
    """Have the kernel end this process after some seconds; 0 calls that off."""
    if sys.platform != "win32":  # there whoever started it ends it
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        with suppress(ValueError, OSError):  # macOS knows the limit but does not let it be set
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started it
    _limit_memory()
    serve(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
