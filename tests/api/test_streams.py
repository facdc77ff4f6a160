"""The event stream of a run: everything, once, in order, to everybody."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import orjson
import pytest

from backend.store import events
from backend.store.connection import Pool


async def read_events(answer: aiohttp.ClientResponse, count: int | None = None) -> list[dict[str, Any]]:
    """The next `count` events of a stream, or all to its end, each checked to be told as it is numbered."""
    found: list[dict[str, Any]] = []
    fields: dict[str, str] = {}
    while count is None or len(found) < count:
        line = (await answer.content.readline()).decode()
        if not line:
            break
        if line == "\n" and fields:
            event = orjson.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(event["number"]), event["type"])
            found.append(event)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value
    return found


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["number"] for event in events]


def path(run: Any) -> str:
    return f"/api/v2/runs/{run.id}/events"


async def test_a_stream_tells_what_was_and_what_comes_and_ends_with_the_run(api, start_run):
    run = await start_run()
    async with api.get(path(run)) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
        assert [event["type"] for event in await read_events(answer, 2)] == ["run.queued", "run.started"]
        await run.begin_node(1, a=1)
        (started,) = await read_events(answer, 1)
        assert started["data"]["inputs"] == {"a": 1}
        assert started["run_id"] == str(run.id)
        await run.complete()
        assert [event["type"] for event in await read_events(answer)] == ["run.completed"]


async def test_a_client_that_comes_back_again_and_again_sees_every_event_exactly_once(api, start_run):
    run = await start_run()
    seen: list[int] = []

    async def write() -> None:
        for number in range(50):
            await run.put_out(1, "result", number)
        await run.complete()

    writer = asyncio.create_task(write())
    while not seen or seen[-1] < 53:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        async with api.get(path(run), headers=headers) as answer:
            seen += numbers(await read_events(answer, 7))
    await writer
    assert seen == list(range(1, 54))


async def test_last_event_id_wins_over_after_and_both_resume(api, start_run):
    run = await start_run()
    await run.complete()
    async with api.get(path(run), params={"after": 1}) as answer:
        assert numbers(await read_events(answer)) == [2, 3]
    async with api.get(path(run), params={"after": 1}, headers={"Last-Event-ID": "2"}) as answer:
        assert numbers(await read_events(answer)) == [3]


@pytest.mark.parametrize("after", [3, 4, 2**40])
async def test_a_stream_resumed_after_the_end_of_the_run_ends_at_once(api, start_run, after):
    run = await start_run()
    await run.complete()
    async with api.get(path(run), params={"after": after}) as answer:
        assert await read_events(answer) == []


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "", "²", "9" * 40])
async def test_a_last_event_id_that_is_no_number_is_refused(api, start_run, wrong):
    run = await start_run()
    async with api.get(path(run), headers={"Last-Event-ID": wrong}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "invalid_last_event_id")


async def test_two_hundred_subscribers_of_one_run_get_it_all(api, start_run):
    run = await start_run()
    streams = await asyncio.gather(*(api.get(path(run)) for _ in range(200)))
    readers = [asyncio.create_task(read_events(stream)) for stream in streams]
    for number in range(30):
        await run.put_out(1, "result", number)
    await run.complete()
    assert [numbers(events) for events in await asyncio.gather(*readers)] == [list(range(1, 34))] * 200


async def test_the_subscribers_of_a_run_share_its_database_reads(api, start_run, monkeypatch):
    run = await start_run()
    streams = await asyncio.gather(*(api.get(path(run)) for _ in range(50)))
    for stream in streams:
        await read_events(stream, 2)
    reads: list[Any] = []
    read = events.read

    async def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return await read(*arguments, **options)

    monkeypatch.setattr(events, "read", counted)
    await run.begin_node(1)
    for stream in streams:
        await read_events(stream, 1)
    assert len(reads) <= 2
    await run.complete()
    for stream in streams:
        stream.close()


async def test_a_long_run_reaches_a_late_client_whole(api, start_run, database: Pool):
    run = await start_run()
    await database.execute(
        "INSERT INTO run_events SELECT $1, number, 'node.output', '{}', now() FROM generate_series(3, 5000) number",
        run.id,
    )
    run.number = 5000
    await run.complete()
    async with api.get(path(run)) as answer:
        assert numbers(await read_events(answer)) == list(range(1, 5002))


async def test_a_client_ahead_of_the_run_is_given_what_comes_next(api, start_run):
    run = await start_run()
    async with api.get(path(run), params={"after": 100}) as answer:
        await run.complete()
        assert numbers(await read_events(answer)) == [3]


async def test_a_reader_that_falls_behind_what_is_kept_in_memory_misses_nothing(api, start_run, monkeypatch):
    monkeypatch.setattr("backend.store.feed.TAIL_EVENTS", 3)
    monkeypatch.setattr("backend.store.feed.BATCH_BYTES", 1)
    run = await start_run()
    text = "x" * 100_000  # more of it than the sockets between us take
    async with api.get(path(run)) as answer:
        for _ in range(200):
            await run.put_out(1, "result", text)
        await run.complete()
        assert numbers(await read_events(answer)) == list(range(1, 204))


async def test_an_event_whose_notification_was_lost_comes_all_the_same(api, start_run, database: Pool, monkeypatch):
    monkeypatch.setattr("backend.store.feed.LOOK_EVERY", 0.05)
    run = await start_run()
    async with api.get(path(run)) as answer:
        await read_events(answer, 2)
        await database.execute("INSERT INTO run_events VALUES ($1, 3, 'run.completed', '{}', now())", run.id)
        assert numbers(await read_events(answer)) == [3]


async def test_a_client_that_goes_away_does_not_touch_the_run(api, start_run):
    run = await start_run()
    answer = await api.get(path(run))
    await read_events(answer, 1)
    answer.close()
    await run.begin_node(1)
    await run.complete()
    async with api.get(path(run)) as answer:
        assert numbers(await read_events(answer)) == [1, 2, 3, 4]


async def test_silence_is_filled_with_comments(api, start_run, monkeypatch):
    monkeypatch.setattr("backend.api.streams.HEARTBEAT_EVERY", 0.05)
    run = await start_run()
    async with api.get(path(run), params={"after": 2}) as answer:
        assert (await answer.content.readline()).startswith(b":")


async def test_a_stream_and_a_wait_end_when_an_event_cannot_be_told(api, start_run, database: Pool):
    run = await start_run()
    deep = "[" * 254 + "]" * 254
    await events.add(database, run.id, [events.Event(3, "run.warning", f'{{"node_run": 1, "message": {deep}}}')])
    async with api.get(path(run)) as answer:
        with suppress(aiohttp.ClientError):
            assert numbers(await read_events(answer)) in ([], [1, 2])
    async with api.get(f"/api/v2/runs/{run.id}", params={"wait": 20}) as answer:
        assert answer.status == 500
