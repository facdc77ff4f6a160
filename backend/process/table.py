"""What runs, as a table for people: one row for each process, whoever runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.process import memory, roster, status
from backend.process.process import State
from backend.process.roster import UnitState, UnitStatus
from backend.process.status import Status

TITLES = ("process", "state", "pid", "uptime", "memory", "reloads", "address", "last error")
# What the states that processes tell of themselves are called by a supervisor.
NAMES = {State.IDLE: UnitState.STARTING, State.INITIALIZING: UnitState.STARTING}
GREEN, YELLOW, RED = "32", "33", "31"
COLOURS = {UnitState.RUNNING: GREEN, UnitState.STARTING: YELLOW, UnitState.RESTARTING: YELLOW, UnitState.WAITING: RED}


@dataclass(frozen=True)
class Row:
    """One process. Only a supervisor knows of `reloads`, `crashes` and `next_try`. `memory` is in bytes."""

    name: str
    state: UnitState
    pid: int
    since: float
    memory: int | None = None
    reloads: int | None = None
    crashes: int | None = None
    next_try: float | None = None
    address: str | None = None
    error: str | None = None


def rows(folder: Path) -> list[Row]:
    """What the supervisor of this folder tells; and of those it does not run, what they tell of themselves."""
    found = roster.read(folder)
    units = found.units if found else []
    names = {unit.name for unit in units}
    others = [one for one in status.read(folder) if one.name not in names]
    alone = [one for one in others if not units or one.state is not State.STOPPED]
    sizes = memory.of_groups({one.pid for one in (*units, *alone)})
    return [
        *(_of_process(one, sizes.get(one.pid)) for one in alone),
        *(_of_unit(one, sizes.get(one.pid)) for one in units),
    ]


def _of_unit(unit: UnitStatus, size: int | None) -> Row:
    error = unit.failure.short if unit.failure else None
    tries = (unit.reloads, unit.crashes, unit.next_try)
    return Row(unit.name, unit.state, unit.pid, unit.since, size, *tries, unit.address, error)


def _of_process(one: Status, size: int | None) -> Row:
    state = NAMES.get(one.state) or UnitState(one.state)
    return Row(one.name, state, one.pid, one.since, size, address=one.address, error=one.error)


def lines(rows: Sequence[Row], *, colour: bool) -> list[str]:
    """The table. The last error comes last, as it may be long."""
    table = [TITLES, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    codes = [None, *(COLOURS.get(row.state) if colour else None for row in rows)]
    return [_line(cells, widths, code) for cells, code in zip(table, codes, strict=True)]


def _line(cells: Sequence[str], widths: Sequence[int], code: str | None) -> str:
    name, state, *rest = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([name, f"\033[{code}m{state}\033[0m" if code else state, *rest]).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    lives = row.state in (UnitState.RUNNING, UnitState.STARTING)
    return (
        row.name,
        f"restarting in {_span(row.next_try - time.time())}" if row.next_try else row.state,
        str(row.pid) if lives else "",
        _span(time.time() - row.since) if lives else "",
        f"{row.memory / 1_048_576:.1f} MB" if row.memory and lives else "",
        "" if row.reloads is None else str(row.reloads),
        row.address or "",
        row.error or "",
    )


def _span(seconds: float) -> str:
    """`42 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = max(0, round(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes == 0:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days == 0 else f"{days} d {hours % 24} h"
