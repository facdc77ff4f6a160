"""Runs a benchmark by name, prints a table for people and one line of JSON per figure for the README."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from importlib import import_module

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure

NAMES = ("start", "throughput")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    figures: list[Figure] = asyncio.run(import_module(f"benchmarks.{given.name}").measure(given.rounds))
    table = Table(title=given.name, title_justify="left")
    for column in ("what", "median", "unit", "rounds", "ratio to us"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    for figure in figures:
        rounds = " ".join(f"{value:.3g}" for value in figure.rounds)
        table.add_row(figure.what, f"{figure.median:.4g}", figure.unit, rounds, f"{figure.ratio(figures[0]):.2f}")
    Console(stderr=True).print(table)
    for figure in figures:
        print(json.dumps(figure.as_dict(given.name, figures[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
