"""Memory and CPU of the whole environment while nothing is asked of it; beside it plain `honcho start`."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from benchmarks.commands import living
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.whole import HONCHO, OURS, started

# Seconds after the start in which it comes to rest, and seconds of rest whose CPU is counted.
SETTLED = 5.0
IDLE = 20.0


async def measure(rounds: int) -> list[Figure]:
    commands = {"this server": OURS, "honcho start of the same Procfile": HONCHO}
    memory: dict[str, list[float]] = {f"{name}, memory": [] for name in commands}
    cpu: dict[str, list[float]] = {f"{name}, CPU idle": [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        with started(OURS, data):
            pass  # the first start makes the database, in a process that is the larger for it
        for number in range(1, rounds + 1):
            for name, command in commands.items():
                sizes, busy = _once(command, data)
                memory[f"{name}, memory"].append(sizes.total())
                cpu[f"{name}, CPU idle"].append(busy)
                each = ", ".join(f"{process} {size:.1f}" for process, size in sizes.most_common())
                progress(f"round {number}: {name} {sizes.total():.1f} MB ({each}), {busy:.2f} % CPU")
    return [*side_by_side("MB", memory), *side_by_side("% of a core", cpu)]


def _once(command: list[str | Path], data: Path) -> tuple[Counter[str], float]:
    """Megabytes of each process, and percent of a core for all."""
    with started(command, data):
        time.sleep(SETTLED)
        began, before = time.monotonic(), _cpu_seconds()
        time.sleep(IDLE)
        busy = (_cpu_seconds() - before) / (time.monotonic() - began)
        sizes: Counter[str] = Counter()
        for pid in living():
            with suppress(OSError):  # it has just ended
                sizes[_name(pid)] += _megabytes(pid)
        return sizes, 100 * busy


def _cpu_seconds() -> float:
    """Of all processes. What one that ended had used is found with its parent."""
    ticks = 0
    for pid in living():
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # proc_pid_stat(5): utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def _megabytes(pid: int) -> float:
    """Its own memory and its part of what it shares (proc_pid_smaps(5): Pss)."""
    found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _name(pid: int) -> str:
    """`rest`, `PostgreSQL`, or what the command line begins with."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if "postgres" in line.partition(" ")[0]:
        return "PostgreSQL"
    ours = re.match(r"agent-server: (\S+)", line)
    return ours[1] if ours else " ".join(Path(word).name for word in line.split()[:3])
