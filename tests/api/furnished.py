"""Puts something of each kind into a server: what an attack by its OpenAPI document is to find there."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp

from tests.api.server import ECHO
from tests.api.test_review_resource import reviewing

PARSE_JSON = "2b935639-65bc-48fd-9f88-823cd706fcd9"
# It fails unless its input is JSON.
PARSING: dict[str, Any] = {
    "name": "Parse",
    "nodes": [*ECHO["nodes"], {"id": "parse", "block_id": PARSE_JSON}],
    "links": [
        {"source_id": "in", "sink_id": "parse", "source_name": "result", "sink_name": "json_str"},
        {"source_id": "parse", "sink_id": "out", "source_name": "data", "sink_name": "value"},
    ],
}
HOW_MANY = 3

Ids = dict[str, list[str]]


class Furnisher:
    """Makes things over HTTP, and keeps their ids by the names of the parameters that take them."""

    def __init__(self, api: aiohttp.ClientSession) -> None:
        self._api = api
        self.ids: Ids = {}

    async def make(self, parameter: str, path: str, at: str = "id", **body: Any) -> Any:
        made = await self._posted(path, json=body)
        self.ids.setdefault(parameter, []).append(made[at])
        return made

    async def _posted(self, path: str, **body: Any) -> Any:
        async with self._api.post(f"/api/v2{path}", **body) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json(content_type=None)

    async def furnish(self) -> Ids:
        """Several of each, as some of what attacks them deletes them."""
        # A webhook first: it is told of all the runs. Nobody makes the deliveries.
        await asyncio.gather(*(self._webhook() for _ in range(HOW_MANY)))
        await asyncio.gather(*(self._one_of_each() for _ in range(HOW_MANY)))
        for webhook in self.ids["webhook_id"]:
            await self._list("delivery_id", f"/webhooks/{webhook}/deliveries?limit={HOW_MANY}", "id")
        await self._list("node_exec_id", "/runs/reviews?status=WAITING", "node_exec_id")
        return self.ids

    async def _list(self, parameter: str, path: str, at: str) -> None:
        async with self._api.get(f"/api/v2{path}") as answer:
            self.ids.setdefault(parameter, []).extend(each[at] for each in (await answer.json())["items"])

    async def _webhook(self) -> None:
        events = ["run.completed", "run.failed", "run.terminated", "run.review", "run.started"]
        await self.make("webhook_id", "/webhooks", url="https://example.com/hooks", events=events)

    async def _one_of_each(self) -> None:
        graph = (await self.make("graph_id", "/graphs", **ECHO))["id"]
        await self._runs(graph)
        await self.make("schedule_id", "/schedules", name="S", graph_id=graph, cron="0 0 1 1 *", inputs={"Input": 1})
        await self._trigger(graph)
        held = {"type": "host_scoped", "provider": "http", "host": "example.com", "headers": {"X-Key": "1"}}
        await self.make("credential_id", "/integrations/credentials", **held)
        key = await self._posted("/api-keys", json={"name": "Other", "permissions": ["IDENTITY"]})
        self.ids.setdefault("key_id", []).append(key["api_key"]["id"])
        await self._file()

    async def _runs(self, graph: str) -> None:
        """Runs that ended in each way, that wait, that rest, and that are shared."""
        completed = await self._run(graph, 1, wait=30)
        self.ids.setdefault("token", []).append((await self._posted(f"/runs/{completed}/share"))["share_token"])
        await self._posted(f"/runs/{completed}/rerun")
        failing = await self._posted("/graphs", json=PARSING)
        await self._run(failing["id"], "{", wait=30)
        asking = await self._posted("/graphs", json=reviewing())
        self.ids["graph_id"] += [failing["id"], asking["id"]]
        for end in ("stop", "pause", None):
            waiting = await self._run(asking["id"], "draft")
            if end:
                await self._posted(f"/runs/{waiting}/{end}")
            else:
                await self._until_it_asks(waiting)

    async def _until_it_asks(self, run: str) -> None:
        async with self._api.get(f"/api/v2/runs/{run}/events") as stream:
            async for line in stream.content:
                if line == b"event: run.waiting\n":
                    return

    async def _run(self, graph: str, value: object, wait: int = 0) -> str:
        return (await self.make("run_id", f"/graphs/{graph}/runs?wait={wait}", inputs={"Input": value}))["id"]

    async def _trigger(self, graph: str) -> None:
        trigger = await self.make(
            "trigger_id", "/triggers", name="T", graph_id=graph, payload_input="Input", verification={"kind": "none"}
        )
        path = urlsplit(trigger["address"]).path.removeprefix("/api/v2")
        self.ids.setdefault("token", []).append(path.rpartition("/")[2])
        await self.make("delivery_id", path, at="delivery_id", action="opened")

    async def _file(self) -> None:
        form = aiohttp.FormData()
        form.add_field("file", b"a,b\n1,2\n", filename=f"{uuid4()}.csv", content_type="text/csv")
        self.ids.setdefault("file_id", []).append((await self._posted("/files/upload", data=form))["id"])
