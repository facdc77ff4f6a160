"""Figures over many runs, whatever their values hold."""

from __future__ import annotations

from uuid import uuid4

import orjson

from backend.settings import Settings
from backend.store import events, graphs, queue, runs
from backend.store.connection import open_pool
from backend.store.events import Entry, Event
from backend.store.identifiers import new_id
from backend.store.statistics import node_run_counts


async def test_node_runs_are_counted_once_also_when_a_value_holds_a_nul(database_url: str):
    async with await open_pool(Settings(database_url=database_url)) as pool:
        graph_id = uuid4()
        await graphs.insert(pool, graph_id, 1, "graph", {"nodes": []})
        await runs.insert(pool, new_id(), graph_id, 1, {})
        [run] = await queue.claim(pool, uuid4(), 1)
        data = [{"node_run": number, "node_id": "n", "inputs": {"a": "nul \0"}} for number in (1, 2, 2)]
        started = [Event(n, "node.started", orjson.dumps(each).decode()) for n, each in enumerate(data, 2)]
        await events.append(pool, [Entry(run.id, run.attempt, started)])
        assert await node_run_counts(pool, [run.id]) == {run.id: 2}
