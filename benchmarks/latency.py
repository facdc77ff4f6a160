"""Milliseconds from a request that starts a run of ten nodes to the last event of its stream; beside it LangGraph."""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import quantiles

import aiohttp
import orjson

from backend.store import bundled
from benchmarks.commands import free_port
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.throughput import chain, peer
from benchmarks.whole import OURS, started

RUNS = 200
# Runs before, so that every process is as warm as it is after a minute.
WARM_UP = 50


async def measure(rounds: int) -> list[Figure]:
    found: dict[str, dict[str, list[float]]] = {
        what: {f"this server over HTTP, {what}": [], f"LangGraph in process, PostgreSQL checkpointer, {what}": []}
        for what in ("p50", "p99")
    }
    begins = {"this server, to the start of the first node, p50": [], "… p99": []}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        with started(OURS, Path(folder), port):
            for number in range(1, rounds + 1):
                ends, starts = await ours(f"http://127.0.0.1:{port}/api/v2", RUNS)
                theirs = await peer("langgraph_one_by_one", bundled.dsn(Path(folder)))
                for of_both, of_ours, of_theirs in zip(found.values(), spread(ends), spread(theirs), strict=True):
                    for rounds_of, value in zip(of_both.values(), (of_ours, of_theirs), strict=True):
                        rounds_of.append(value)
                for rounds_of, value in zip(begins.values(), spread(starts), strict=True):
                    rounds_of.append(value)
                progress(f"round {number}: p50 {spread(ends)[0]:.1f} ms, LangGraph {spread(theirs)[0]:.1f} ms")
    figures = [figure for both in found.values() for figure in side_by_side("ms", both)]
    return figures + [Figure(what, "ms", values) for what, values in begins.items()]


def spread(values: list[float]) -> tuple[float, float]:
    """The median, and what one in a hundred exceeds."""
    hundredths = quantiles(values, n=100)
    return hundredths[49], hundredths[98]


async def ours(api: str, runs: int) -> tuple[list[float], list[float]]:
    """One run after the other: milliseconds to the last event, as a client hears it; to the start of the first node."""
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{api}/graphs", json=chain("00000000-0000-4000-8000-000000000001")) as answer:
            graph = (await answer.json())["id"]
        for _ in range(WARM_UP):
            await _one(session, api, graph)
        both = [await _one(session, api, graph) for _ in range(runs)]
    return [end for end, _ in both], [start for _, start in both]


async def _one(session: aiohttp.ClientSession, api: str, graph: str) -> tuple[float, float]:
    asked, began = time.time(), 0.0
    async with session.post(f"{api}/graphs/{graph}/runs", json={"inputs": {"a": 1}}) as answer:
        run = (await answer.json())["id"]
    async with session.get(f"{api}/runs/{run}/events") as stream:
        async for line in stream.content:
            if not line.startswith(b"data: "):
                continue
            event = orjson.loads(line[6:])
            if event["type"] == "node.started" and not began:
                began = datetime.fromisoformat(event["created_at"]).timestamp()
            if event["type"] == "run.completed":
                return (time.time() - asked) * 1000, (began - asked) * 1000
    raise AssertionError(f"the run {run} did not complete")
