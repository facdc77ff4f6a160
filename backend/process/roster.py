"""What a supervisor tells of its processes while it runs: the file `units`, replaced as a whole at every change."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from backend.process.failure import Failure
from backend.process.status import started

FILE = "units"


class UnitState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    WAITING = "waiting for a save"
    STOPPED = "stopped"


@dataclass(frozen=True)
class UnitStatus:
    """One process. Times are in seconds since 1970; `since` is when this state of this pid began.

    `next_try` is set while it is restarting. `failure` is the last error, and goes with the next good exchange; `held`
    says that newer code failed, so that nothing newer runs before the next save.
    """

    name: str
    state: UnitState
    pid: int
    since: float
    address: str | None
    reloads: int
    crashes: int
    next_try: float | None
    failure: Failure | None
    failed_at: float | None
    held: bool


@dataclass(frozen=True)
class Roster:
    """`control` is the address of the supervisor's control socket (see control.py)."""

    pid: int
    control: str
    units: list[UnitStatus]


def write(folder: Path, roster: Roster) -> None:
    """Tell it. A folder that cannot be written to costs the supervisor its visibility, not its life."""
    with suppress(OSError):
        temporary = folder / f"{FILE}.new"
        temporary.write_text(json.dumps(asdict(roster) | {"started": started(roster.pid)}))
        temporary.replace(folder / FILE)


def remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Roster | None:
    """What the supervisor of this folder told last; None when none runs."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        fields = json.loads((folder / FILE).read_text())
        if started(fields["pid"]) == fields["started"] is not None:
            return Roster(fields["pid"], fields["control"], [_unit(**unit) for unit in fields["units"]])
    return None


def _unit(state: str, failure: dict[str, str | int | None] | None, **fields: object) -> UnitStatus:
    known = Failure(**failure) if failure else None  # pyright: ignore[reportArgumentType]
    return UnitStatus(state=UnitState(state), failure=known, **fields)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Held:
    """Newer code of these processes failed."""

    processes: list[str]
    failure: Failure


def held(folder: Path) -> list[Held]:
    """Each failure that keeps newer code from running, once."""
    found: dict[Failure, list[str]] = {}
    roster = read(folder)
    for unit in roster.units if roster else []:
        if unit.held and unit.failure:
            found.setdefault(unit.failure, []).append(unit.name)
    return [Held(names, failure) for failure, names in found.items()]


def own(control: str, units: list[UnitStatus]) -> Roster:
    return Roster(os.getpid(), control, units)
