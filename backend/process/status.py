"""The state of each process, visible from outside: one small file each, written by the process itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backend.process.process import State
from backend.process.procfile import short_name


@dataclass(frozen=True)
class Status:
    """What is known of one process. `since` is when this state began, in seconds since 1970."""

    name: str
    state: State
    pid: int
    since: float
    address: str | None = None
    error: str | None = None


class StatusFile:
    """The file of this process: `<name>.<pid>.json`, replaced as a whole at every change."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = instance_name(name)
        self._path = folder / f"{self.name}.{os.getpid()}.json"
        self._started = started(os.getpid())

    def write(self, state: State, *, address: str | None = None, error: str | None = None) -> None:
        """Tell `state`. A folder that cannot be written to costs the process its visibility, not its life."""
        status = Status(self.name, state, os.getpid(), time.time(), address, error)
        temporary = self._path.with_suffix(".new")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(status) | {"started": self._started}))
            temporary.replace(self._path)

    def remove_predecessors(self) -> None:
        """Delete what processes of this name that are gone have left."""
        with suppress(OSError):
            for path in self._path.parent.glob(f"{self.name}.*.json"):
                found = _read(path)
                if found and found.name == self.name and not _is_alive(path):
                    path.unlink(missing_ok=True)


def instance_name(name: str) -> str:
    """`executor`, or `executor.2` for the second one that a Procfile runner started."""
    given = os.environ.get("HONCHO_PROCESS_NAME", "")
    return short_name(given) if given.partition(".")[0] == name else name


def read(folder: Path) -> list[Status]:
    """Every process that told its state in `folder`, by name. One that is gone is `stopped`, whatever it told last.

    Of a name that nobody has now, the last one that had it is told.
    """
    found = [(status, _is_alive(path)) for path in folder.glob("*.json") if (status := _read(path))]
    living = [status for status, alive in found if alive]
    names = {status.name for status in living}
    last = {status.name: status for status, _ in sorted(found, key=lambda each: each[0].since)}
    gone = [replace(status, state=State.STOPPED) for name, status in last.items() if name not in names]
    return sorted(living + gone, key=lambda status: (status.name, status.since))


def _read(path: Path) -> Status | None:
    with suppress(OSError, ValueError, TypeError):
        fields = json.loads(path.read_text())
        fields.pop("started", None)
        return Status(**fields | {"state": State(fields["state"])})
    return None


def _is_alive(path: Path) -> bool:
    with suppress(OSError, ValueError, KeyError):
        fields = json.loads(path.read_text())
        return fields["started"] is not None and started(fields["pid"]) == fields["started"]
    return False


def started(pid: int) -> str | None:
    """When `pid` was started, in the system's own notation; None when it is gone. Tells it from a later namesake."""
    if sys.platform != "linux":
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip() or None
    with suppress(OSError, IndexError):
        # proc_pid_stat(5): the state is the first field after the command in parentheses, the start time the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None
