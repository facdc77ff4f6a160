"""What a benchmark gives back, and how it says that it is getting on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One thing measured over several rounds. `ours` is the figure of this server that a peer's stands beside."""

    what: str
    unit: str
    rounds: list[float]
    ours: Figure | None = None

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def ratio(self) -> float | None:
        """Ours as a multiple of this; None when this is zero."""
        return (self.ours or self).median / self.median if self.median else None

    def as_dict(self, benchmark: str) -> dict[str, Any]:
        return {
            "benchmark": benchmark,
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "rounds": self.rounds,
            "ours_is_times": self.ratio,
        }


def side_by_side(unit: str, found: dict[str, list[float]]) -> list[Figure]:
    """A figure for each name in `found`. The first is ours, the others stand beside it."""
    names = iter(found)
    first = next(names)
    ours = Figure(first, unit, found[first])
    return [ours, *(Figure(name, unit, found[name], ours) for name in names)]


def progress(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)
