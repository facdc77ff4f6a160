"""A request's id is in the logs of every process that has to do with what it began."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import structlog
from structlog.contextvars import merge_contextvars

from backend.blocks import registry
from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Pins
from backend.execution import scheduler
from backend.execution.notifier import Courier
from backend.execution.webhook_sender import Sender
from backend.graphs.graph import AGENT_EXECUTOR
from backend.store import queue
from backend.store.connection import Pool
from backend.store.identifiers import new_id
from backend.store.sealing import sealer
from tests.api.server import executing


class BrokenBlock(Block):
    """Has a mistake."""

    id = "b20ce000-0000-4000-8000-000000000001"
    categories = (Category.BASIC,)
    examples = ()

    class Input(BlockInput):
        pass

    class Output(BlockOutput):
        pass

    async def run(self, input: Input, context: Context) -> Pins:
        await asyncio.sleep(0)
        structlog.get_logger().info("a block says something")
        raise ZeroDivisionError
        yield


async def store(api: Any, *nodes: dict[str, Any]) -> str:
    async with api.post("/api/v2/graphs", json={"name": "x", "nodes": nodes, "links": []}) as answer:
        assert answer.status == 201, await answer.text()
        return (await answer.json())["id"]


async def test_the_id_of_a_request_is_in_all_logs_of_the_run_that_it_began(
    api: Any, settings: Any, database: Pool, monkeypatch: Any
):
    logged, told = [], asyncio.Event()

    def keep(_logger: object, _method: str, line: dict[str, Any]) -> str:
        logged.append(line)
        if line["event"] == "told a webhook":
            told.set()
        return ""

    structlog.configure(processors=[merge_contextvars, keep])
    blocks = {**registry.blocks(), BrokenBlock.id: BrokenBlock()}
    monkeypatch.setattr(registry, "blocks", lambda: blocks)
    below = await store(api, {"id": "broken", "block_id": BrokenBlock.id})
    defaults = {"graph_id": below, "graph_version": 1, "input_schema": {}, "output_schema": {}, "inputs": {}}
    above = await store(api, {"id": "call", "block_id": AGENT_EXECUTOR, "input_default": defaults})
    webhook = {"url": "https://nowhere.invalid/", "events": ["run.failed"]}
    async with api.post(
        f"/api/v2/graphs/{above}/runs", json={"webhook": webhook}, headers={"X-Request-Id": "find-me"}
    ) as answer:
        run = await answer.json()
    assert run["request_id"] == "find-me"
    await queue.claim(database, new_id(), 1)  # by an executor that nobody hears of again
    await scheduler.rescue(database)
    async with executing(settings, database), api.get(f"/api/v2/runs/{run['id']}/events") as answer:
        await answer.read()
    async with api.get("/api/v2/runs", params={"parent_run_id": run["id"]}) as answer:
        assert [each["request_id"] for each in (await answer.json())["items"]] == ["find-me"]
    sender, stopping = Sender((), sealer(settings)), asyncio.Event()
    notifying = asyncio.create_task(Courier(database, sender).work(settings.database_url, stopping))
    async with asyncio.timeout(20):
        await told.wait()
    stopping.set()
    await notifying
    await sender.close()
    found = Counter(line["event"] for line in logged if line.get("request_id") == "find-me")
    assert found == {
        "request": 1,
        "rescued a run from an executor that is gone": 1,
        "took up a run": 3,  # the first lets go of it while it waits for that below
        "let go of a run": 3,
        "a block says something": 1,
        "block raised": 1,
        "told a webhook": 1,
    }
