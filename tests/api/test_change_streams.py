"""The streams of what becomes of many runs: each change once, however often a client comes back, in whatever order
transactions are committed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp
import orjson
import pytest

from backend.store import changes, control, graphs, runs
from backend.store.connection import Pool
from backend.store.identifiers import new_id
from backend.store.runs import QUEUED
from backend.store.users import DEFAULT_USER
from backend.store.watch import Watch
from tests.api.server import FakeRun

Seen = list[tuple[str, int, str]]


class Reader:
    """A client that remembers the last id it was given, as a browser does."""

    def __init__(self, api: aiohttp.ClientSession, path: str) -> None:
        self.api = api
        self.path = path
        self.last: str | None = None
        self.seen: Seen = []

    async def read(self, until: int) -> None:
        """Take in changes over one connection, until there were so many in all, or it ends."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        async with self.api.get(self.path, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            while len(self.seen) < until and await self._read_block(answer):
                pass

    async def _read_block(self, answer: aiohttp.ClientResponse) -> bool:
        fields: dict[str, str] = {}
        while (line := (await answer.content.readline()).decode()) not in ("\n", ""):
            if not line.startswith(":"):
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
        self.last = fields.get("id", self.last)
        if "data" in fields:
            change = orjson.loads(fields["data"])
            assert change["type"] == fields["event"]
            self.seen.append((change["run_id"], change["number"], change["type"]))
        return bool(line)

    async def begin(self) -> None:
        """Connect, and leave once there is something to come back with."""
        async with self.api.get(self.path) as answer:
            while self.last is None:
                await self._read_block(answer)


@pytest.fixture
async def graph_id(database: Pool) -> Any:
    id = new_id()
    await graphs.insert(database, id, 1, "Echo", {"nodes": [], "links": []})
    return id


async def begin_late(database: Pool, graph_id: Any, seconds: float) -> Any:
    """Queue a run in a transaction that is committed some time later."""
    run_id = new_id()
    async with database.acquire() as connection, connection.transaction():
        await runs.insert(connection, run_id, graph_id, 1, {})
        await asyncio.sleep(seconds)
    return run_id


async def live(database: Pool, graph_id: Any, begun: list[Any], seconds: float) -> None:
    """A whole run, of which the transactions are committed in disorder with those of others."""
    begun.append(await begin_late(database, graph_id, seconds))
    run = FakeRun(database, begun[-1], graph_id)
    await database.execute("UPDATE runs SET status = 'RUNNING', attempt = 1 WHERE id = $1", run.id)
    await run.write("run.started", attempt=1)
    await run.begin_node(1)
    await run.write("run.output", name="Output", value=7, node_run=1)
    await run.complete()


def whole(run_ids: list[Any]) -> set[tuple[str, int, str]]:
    states = ((1, "run.queued"), (2, "run.started"), (5, "run.completed"))
    return {(str(id), number, type) for id in run_ids for number, type in states}


@pytest.mark.parametrize("path", ["/api/v2/graphs/{}/events", "/api/v2/runs/events"])
async def test_a_client_cut_off_at_every_event_misses_nothing_and_sees_nothing_twice(api, database, graph_id, path):
    reader, begun = Reader(api, path.format(graph_id)), list[Any]()
    await reader.begin()
    chance = random.Random(1)
    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(live(database, graph_id, begun, chance.uniform(0, 0.6)))
        for number in range(1, 91):
            await reader.read(number)
    assert len(reader.seen) == len(set(reader.seen)) == 90
    assert set(reader.seen) == whole(begun)
    for id in begun:
        assert [number for run, number, _ in reader.seen if run == str(id)] == [1, 2, 5]


async def test_a_client_that_stays_is_told_all_and_so_is_one_that_comes_much_later(api, database, graph_id):
    stays, late, begun = (
        Reader(api, f"/api/v2/graphs/{graph_id}/events"),
        Reader(api, "/api/v2/runs/events"),
        list[Any](),
    )
    await stays.begin()
    await late.begin()
    async with asyncio.TaskGroup() as group:
        group.create_task(stays.read(45))
        for number in range(15):
            group.create_task(live(database, graph_id, begun, number / 50))
    await late.read(45)
    assert set(stays.seen) == set(late.seen) == whole(begun)


async def test_what_is_of_others_is_not_told(api, database, graph_id, start_run):
    reader = Reader(api, f"/api/v2/graphs/{graph_id}/events")
    await reader.begin()
    other = await start_run()
    await other.complete()
    foreign = await begin_late(database, graph_id, 0)
    await database.execute("UPDATE runs SET user_id = gen_random_uuid() WHERE id = $1", foreign)
    await control.request_stop(database, foreign)
    mine = await begin_late(database, graph_id, 0)
    await control.request_stop(database, mine)
    await reader.read(2)
    assert [(run, type) for run, _, type in reader.seen if run == str(mine)] == [
        (str(mine), "run.queued"),
        (str(mine), "run.terminated"),
    ]
    assert (str(foreign), 2, "run.terminated") not in reader.seen


async def test_changes_whose_hints_were_lost_come_all_the_same(api, database, graph_id, monkeypatch):
    monkeypatch.setattr("backend.store.watch.Watch.heard", lambda *_: None)
    monkeypatch.setattr("backend.store.watch.HEARD_WITHIN", 0.05)
    reader, begun = Reader(api, f"/api/v2/graphs/{graph_id}/events"), list[Any]()
    await reader.begin()
    await live(database, graph_id, begun, 0)
    for number in range(1, 4):
        await reader.read(number)
    assert set(reader.seen) == whole(begun)


async def test_a_reader_that_falls_behind_what_is_kept_in_memory_misses_nothing(api, database, graph_id, monkeypatch):
    monkeypatch.setattr("backend.store.watch.BATCH", 3)
    position = await changes.here(database)
    watch, begun = Watch(database), list[Any]()
    watch._changes = type(watch._changes)(maxlen=4)
    monkeypatch.setattr("backend.store.watch.HEARD_WITHIN", 0)
    seen: list[tuple[str, int, str]] = []
    async for place, batch in watch.follow(position, DEFAULT_USER, graph_id, idle=0.05):
        assert await changes.position_of(database, str(place)) == place
        seen += [(str(each.run_id), each.number, each.type) for each in batch]
        if len(begun) < 4:
            await live(database, graph_id, begun, 0)
            await watch._look()
        elif len(seen) >= 12:
            break
    assert len(seen) == 12
    assert set(seen) == whole(begun)


async def first_of(batches: Any) -> Any:
    return await anext(batch async for _, batch in batches if batch)


async def test_a_look_waits_for_the_hints_of_all_that_it_can_see(database, graph_id, monkeypatch):
    monkeypatch.setattr("backend.store.watch.HEARD_WITHIN", 3600)
    called, call_turn = asyncio.Queue[str](), changes.call_turn

    async def calling(connection: Any, name: str) -> changes.Position:
        position = await call_turn(connection, name)
        called.put_nowait(name)
        return position

    monkeypatch.setattr(changes, "call_turn", calling)
    watch = Watch(database)
    batches = watch.follow(await changes.here(database), DEFAULT_USER, graph_id, idle=0)
    await anext(batches)
    run_id = await begin_late(database, graph_id, 0)
    watch.heard(QUEUED, str(new_id()))
    news = asyncio.ensure_future(first_of(batches))
    name = await called.get()
    watch.heard(QUEUED, str(run_id))
    watch.heard(changes.TURN, name)
    assert [change.run_id for change in await asyncio.wait_for(news, 10)] == [run_id]
    watch.close()


@pytest.mark.parametrize(
    "wrong", ["x", "", "1", "1.2:1:", "1.1:1:x", "9" * 18 + ".1:1:", "1.9999999999:9999999999:", "1.1:2:5,3"]
)
async def test_an_id_that_is_none_of_the_stream_is_refused(api, graph_id, wrong):
    for headers, parameters in (({"Last-Event-ID": wrong}, {}), ({}, {"after": wrong})):
        async with api.get(f"/api/v2/graphs/{graph_id}/events", headers=headers, params=parameters) as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "invalid_last_event_id")


async def test_the_stream_of_a_graph_that_is_not_there_is_refused(api):
    async with api.get(f"/api/v2/graphs/{new_id()}/events") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_graph")


async def test_silence_is_filled_with_comments_also_while_others_are_busy(api, graph_id, start_run, monkeypatch):
    monkeypatch.setattr("backend.api.streams.HEARTBEAT_EVERY", 0.1)
    async with api.get(f"/api/v2/graphs/{graph_id}/events") as answer:
        busy = asyncio.create_task(_busy(start_run))
        while not (await answer.content.readline()).startswith(b":"):
            pass
        busy.cancel()


async def _busy(start_run: Any) -> None:
    while True:
        await start_run()
