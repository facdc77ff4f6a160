"""The same chain on other engines, in this process, each in the way its documentation shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict
from uuid import uuid4

from dbos import DBOS, DBOSConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool


class State(TypedDict):
    value: int


async def _rate(runs: int, concurrency: int, one: Callable[[], Awaitable[Any]]) -> float:
    async def worker(count: int) -> None:
        for _ in range(count):
            await one()

    await one()
    started = time.perf_counter()
    await asyncio.gather(*(worker(runs // concurrency) for _ in range(concurrency)))
    return runs // concurrency * concurrency / (time.perf_counter() - started)


def _chain(nodes: int) -> StateGraph[State]:
    async def add_one(state: State) -> State:
        return {"value": state["value"] + 1}

    graph = StateGraph(State)
    names = [f"n{i}" for i in range(nodes)]
    for name in names:
        graph.add_node(name, add_one)
    for source, sink in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(source, sink)
    return graph


async def langgraph_durable(dsn: str, nodes: int, runs: int, concurrency: int) -> float:
    """AsyncPostgresSaver, `durability="sync"`: each step is written before the next starts."""
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, min_size=concurrency, max_size=concurrency, kwargs=options) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        app = _chain(nodes).compile(checkpointer=saver)

        async def one() -> None:
            config = {"configurable": {"thread_id": str(uuid4())}}
            result = await app.ainvoke({"value": 1}, config, durability="sync")
            assert result["value"] == nodes + 1

        return await _rate(runs, concurrency, one)


async def langgraph_in_memory(nodes: int, runs: int) -> float:
    app = _chain(nodes).compile()

    async def one() -> None:
        assert (await app.ainvoke({"value": 1}))["value"] == nodes + 1

    return await _rate(runs * 5, 1, one)


@DBOS.step()
async def add_one(value: int) -> int:
    return value + 1


@DBOS.workflow()
async def chain(value: int, nodes: int) -> int:
    for _ in range(nodes):
        value = await add_one(value)
    return value


async def dbos_steps(dsn: str, nodes: int, runs: int, concurrency: int) -> float:
    DBOS(config=DBOSConfig(name="bench", system_database_url=dsn, log_level="ERROR"))
    DBOS.launch()
    try:

        async def one() -> None:
            assert await chain(1, nodes) == nodes + 1

        return await _rate(runs, concurrency, one)
    finally:
        DBOS.destroy()
