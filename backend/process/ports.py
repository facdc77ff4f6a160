"""Who holds a TCP port (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The state of a listening socket in proc_net_tcp(5).
LISTEN = "0A"


def owner_of(port: int) -> str:
    """` by pid 4211 (python -m backend.rest)`, to go into a sentence; empty when it cannot be known."""
    sockets = set(_listening(port))
    holders = [process for process in Path("/proc").glob("[0-9]*") if _holds(process, sockets)] if sockets else []
    if not holders:
        return ""
    # A supervisor holds the sockets of its children; it was there first, and it is the one to stop.
    first = min(holders, key=lambda process: int(process.name))
    return f" by pid {first.name} ({_command(first)})"


def _listening(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"


def _holds(process: Path, sockets: set[str]) -> bool:
    with suppress(OSError):  # gone by now, or somebody else's
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()) in sockets:
                    return True
    return False


def _command(process: Path) -> str:
    with suppress(OSError):
        return process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"
