"""Ends the process groups of a supervisor that was killed: a shell that waits for the end of a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress

# Each line holds all living groups, negated for kill(1). At the end of the pipe they get SIGTERM, and 2 s to end.
# A shell takes 1 MB, an interpreter would take 8.
SCRIPT = """
trap '' INT TERM HUP
while read -r line; do groups=$line; done
[ -n "$groups" ] || exit 0
kill -s TERM -- $groups
for try in 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9; do
    alive=
    for group in $groups; do kill -s 0 -- $group && alive=yes; done
    [ -n "$alive" ] || exit 0
    sleep 0.1
done
kill -s KILL -- $groups
"""


class Guard:
    """Knows the process group of every child, here and in a process of its own that outlives this one."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._tell()

    def discard(self, group: int) -> None:
        self._groups.discard(group)
        self._tell()

    def kill(self) -> None:
        """SIGKILL to all. May be called by a signal handler."""
        for group in tuple(self._groups):
            signal_group(group, signal.SIGKILL)

    def close(self) -> None:
        """Let the shell go. Groups that are still there are ended by it."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait()

    def _tell(self) -> None:
        line = " ".join(f"-{group}" for group in sorted(self._groups)) + "\n"
        assert self._shell.stdin is not None
        with suppress(OSError):  # somebody killed the guard: the children still have their parent-death signal
            os.write(self._shell.stdin.fileno(), line.encode())


def signal_group(group: int, number: int) -> bool:
    """Send a signal (0: none) to a process group; False when nobody is there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
