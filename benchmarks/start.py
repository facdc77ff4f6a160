"""Seconds from the command to every process ready, and from Ctrl-C to nothing left; beside it plain `honcho start`."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.commands import PATIENCE, gone
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.whole import HONCHO, OURS, started

# Seconds after which an environment that is ready has nothing more to do.
SETTLED = 1.0


async def measure(rounds: int) -> list[Figure]:
    first: list[float] = []
    starts: dict[str, list[float]] = {"this server, start": [], "honcho start of the same Procfile": []}
    stops: dict[str, list[float]] = {"this server, SIGINT to nothing left": [], "honcho, SIGINT to nothing left": []}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "data"
        for number in range(1, rounds + 1):
            shutil.rmtree(data, ignore_errors=True)
            first.append(_once(OURS, data)[0])
            for command, start, stop in zip((OURS, HONCHO), starts, stops, strict=True):
                took = _once(command, data)
                starts[start].append(took[0])
                stops[stop].append(took[1])
                progress(f"round {number}: {start} {took[0]:.2f} s, stop {took[1]:.2f} s")
    return [
        *side_by_side("s", starts),
        *side_by_side("s", stops),
        Figure("this server, first start in an empty folder", "s", first),
    ]


def _once(command: list[str | Path], data: Path) -> tuple[float, float]:
    """Seconds to start, and to stop."""
    began = time.perf_counter()
    with started(command, data) as process:
        start = time.perf_counter() - began
        time.sleep(SETTLED)
        asked = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert gone(PATIENCE), f"{command} has left processes {PATIENCE:g} s after SIGINT"
        return start, time.perf_counter() - asked
