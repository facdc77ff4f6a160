"""Runs a benchmark by name, prints a table for people and one line of JSON per figure for the README."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure

NAMES = ("start", "throughput", "latency", "api", "fanout", "scale", "cost", "logs", "footprint", "reload")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    figures: list[Figure] = asyncio.run(import_module(f"benchmarks.{given.name}").measure(given.rounds))
    table = Table(title=given.name, title_justify="left")
    for column in ("what", "median", "unit", "rounds", "ours is"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for figure in figures:
        rounds = " ".join(f"{value:.3g}" for value in figure.rounds)
        ratio = "" if figure.ours is None or figure.ratio is None else f"{figure.ratio:.3g} ×"
        table.add_row(figure.what, f"{figure.median:.4g}", figure.unit, rounds, ratio)
    Console(stderr=True).print(table)
    for figure in figures:
        print(json.dumps(figure.as_dict(given.name)))
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, so that what was started is ended; at once, also where nothing is awaited.

    Set even where a shell in the background has SIGINT ignored: the servers would inherit that.
    """
    del frame
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
