"""What a benchmark gives back."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One thing measured over several rounds. The first figure of a benchmark is ours."""

    what: str
    unit: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return median(self.rounds)

    def ratio(self, ours: Figure) -> float:
        """Ours as a multiple of this."""
        return ours.median / self.median

    def as_dict(self, benchmark: str, ours: Figure) -> dict[str, Any]:
        return {
            "benchmark": benchmark,
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "rounds": self.rounds,
            "ours_is_times": self.ratio(ours),
        }
