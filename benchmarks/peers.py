"""The same chain on other engines, each in the way its documentation shows: prints runs per second, or the milliseconds
that each of many runs took."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict
from uuid import uuid4

from dbos import DBOS, DBOSConfig
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

NODES = 10
RUNS = 160
CONCURRENCY = 16
WARM_UP = 20


class State(TypedDict):
    value: int


async def _rate(one: Callable[[], Awaitable[Any]], runs: int = RUNS, concurrency: int = CONCURRENCY) -> list[float]:
    async def worker(count: int) -> None:
        for _ in range(count):
            await one()

    await one()
    started = time.perf_counter()
    await asyncio.gather(*(worker(runs // concurrency) for _ in range(concurrency)))
    return [runs // concurrency * concurrency / (time.perf_counter() - started)]


async def _one_by_one(one: Callable[[], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each."""
    took: list[float] = []
    for _ in range(WARM_UP + RUNS):
        started = time.perf_counter()
        await one()
        took.append((time.perf_counter() - started) * 1000)
    return took[WARM_UP:]


def _chain() -> StateGraph[State]:
    async def add_one(state: State) -> State:
        return {"value": state["value"] + 1}

    graph = StateGraph(State)
    names = [f"n{i}" for i in range(NODES)]
    for name in names:
        graph.add_node(name, add_one)
    for source, sink in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(source, sink)
    return graph


@asynccontextmanager
async def _durable_chain(dsn: str) -> AsyncGenerator[Callable[[], Awaitable[None]]]:
    """AsyncPostgresSaver, `durability="sync"`: each step is written before the next starts."""
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, min_size=CONCURRENCY, max_size=CONCURRENCY, kwargs=options) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        app = _chain().compile(checkpointer=saver)

        async def one() -> None:
            config = {"configurable": {"thread_id": str(uuid4())}}
            result = await app.ainvoke({"value": 1}, config, durability="sync")
            assert result["value"] == NODES + 1

        yield one


async def langgraph_durable(dsn: str) -> list[float]:
    async with _durable_chain(dsn) as one:
        return await _rate(one)


async def langgraph_one_by_one(dsn: str) -> list[float]:
    async with _durable_chain(dsn) as one:
        return await _one_by_one(one)


async def langgraph_in_memory(dsn: str) -> list[float]:
    del dsn
    app = _chain().compile()

    async def one() -> None:
        assert (await app.ainvoke({"value": 1}))["value"] == NODES + 1

    return await _rate(one, RUNS * 5, 1)


@DBOS.step()
async def add_one(value: int) -> int:
    return value + 1


@DBOS.workflow()
async def chain(value: int) -> int:
    for _ in range(NODES):
        value = await add_one(value)
    return value


async def dbos_steps(dsn: str) -> list[float]:
    DBOS(config=DBOSConfig(name="bench", system_database_url=dsn, log_level="ERROR"))
    DBOS.launch()
    try:

        async def one() -> None:
            assert await chain(1) == NODES + 1

        return await _rate(one)
    finally:
        DBOS.destroy()


PEERS = {each.__name__: each for each in (langgraph_durable, langgraph_one_by_one, langgraph_in_memory, dbos_steps)}

if __name__ == "__main__":
    print(*asyncio.run(PEERS[sys.argv[1]](sys.argv[2])))
