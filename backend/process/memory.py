"""How much memory process groups take, where the system tells (Linux)."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


def of_groups(leaders: Collection[int]) -> dict[int, int]:
    """Bytes of each group that can be read: what its processes share with others counts in part (PSS)."""
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            # proc_pid_stat(5): the process group is the third field after the command in parentheses.
            group = int((process / "stat").read_text().rpartition(")")[2].split()[2])
            leader = group if group in leaders else int(process.name)
            if leader in leaders:
                found[leader] = found.get(leader, 0) + _share(process)
    return found


def _share(process: Path) -> int:
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
