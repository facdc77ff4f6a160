"""A process must not outlive the one that started it, however that one ended."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> Callable[[], None]:
    """Build what a child calls between fork and exec, so that SIGTERM reaches it when `parent` dies (Linux).

    Strictly the signal comes when the *thread* that forked ends. Everything is looked up here, before the fork: the
    child of a process with threads must not import anything.
    """
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


def end_with_honcho() -> None:
    """Under plain `honcho start`: SIGTERM to ourselves when honcho is gone (Linux).

    honcho -> its reader process -> sh -> we. Killed honcho leaves the reader and sh alive, so neither the parent's
    death nor a closed pipe would tell; the two above the shell's session are watched instead.
    """
    if sys.platform != "linux" or "HONCHO_PROCESS_NAME" not in os.environ or "NOTIFY_SOCKET" in os.environ:
        return
    reader = _parent(os.getsid(0))
    watched = [pid for pid in (reader, _parent(reader)) if pid > 1]
    descriptors: list[int] = []
    with suppress(OSError):
        descriptors.extend(os.pidfd_open(pid) for pid in watched)
    if descriptors:
        threading.Thread(target=_stop_when_any_ends, args=[descriptors], name="honcho-watch", daemon=True).start()


def _stop_when_any_ends(descriptors: list[int]) -> None:
    select.select(descriptors, [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
