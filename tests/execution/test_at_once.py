"""Blocks that never wait are run without a task, and everything else holds for them as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from backend.execution.at_once import at_once, close_at_once, never_waits
from backend.execution.plan import make_plan
from backend.execution.run import MAX_UNWRITTEN, Run
from backend.graphs.graph import Graph
from backend.settings import Settings
from backend.store.events import Entry, Event
from backend.store.runs import StoredRun
from tests.execution.engine import Engine, calls

RUN = UUID(int=1)
QUEUED = Event(1, "run.queued", {})
RESCUED = Event(2, "run.rescued", {})


class SlowJournal:
    """Writes nothing before it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Entry, Callable[[bool], None]]] = []

    def append(self, entry: Entry, written: Callable[[bool], None]) -> None:
        self.waiting.append((entry, written))

    def types(self) -> list[str]:
        return [event.type for entry, _ in self.waiting for event in entry.events]

    def write(self) -> None:
        waiting, self.waiting = self.waiting, []
        for _, written in waiting:
            written(True)


def begun(journal: SlowJournal, history: list[Event], block: str, **given: Any) -> Run:
    document = {"name": "g", "nodes": [{"id": "n", "block_id": block, "input_default": {"name": "n", **given}}]}
    now = datetime.now(UTC)
    stored = StoredRun(RUN, RUN, 1, "RUNNING", {}, None, False, 1, RUN, now, now, None, None, None, 0)
    plan = make_plan(Graph.model_validate(document), RUN, 1)
    run = Run(stored, plan, journal, Settings(), lambda run: None, None, None)  # pyright: ignore[reportArgumentType]
    run.begin(history)
    return run


async def plain() -> AsyncGenerator[int, None]:
    yield 1
    yield 2


async def waiting() -> AsyncGenerator[int, None]:
    yield 1
    await asyncio.sleep(0)


async def following() -> AsyncGenerator[int, None]:
    async for each in plain():
        yield each


async def entering() -> AsyncGenerator[int, None]:
    async with asyncio.Lock():
        yield 1


def test_a_generator_that_can_wait_is_told_from_one_that_cannot():
    generators = [plain(), waiting(), following(), entering()]
    assert [never_waits(each) for each in generators] == [True, False, False, False]


async def test_a_generator_left_halfway_can_be_gone_on_with_and_closed():
    cleaned: list[int] = []

    async def some() -> AsyncGenerator[int, None]:
        try:
            for number in range(4):
                yield number
        finally:
            cleaned.append(1)

    outputs = some()
    assert next(iter(at_once(outputs))) == 0
    assert await anext(outputs) == 1
    assert cleaned == []
    close_at_once(outputs)
    assert cleaned == [1]


async def test_what_a_node_does_without_waiting_is_written_at_once():
    journal = SlowJournal()
    begun(journal, [QUEUED], "pass", a=1)
    assert journal.types() == ["run.started", "node.started", "node.output", "node.completed"]


async def test_after_a_death_a_node_is_written_down_before_it_works():
    journal = SlowJournal()
    run = begun(journal, [QUEUED, RESCUED], "pass", a=1)
    assert journal.types() == ["run.started", "node.started"]
    assert calls == []
    run.abandon()


async def test_a_node_that_puts_out_more_than_there_is_room_for_is_held_back_until_there_is():
    journal = SlowJournal()
    count = 3 * MAX_UNWRITTEN
    begun(journal, [QUEUED], "each", a=list(range(count)))
    outputs = 0
    while "run.completed" not in journal.types():
        assert len(journal.waiting) <= MAX_UNWRITTEN + 2
        outputs += journal.types().count("node.output")
        journal.write()
        await asyncio.sleep(0)
    assert outputs == count


@pytest.mark.parametrize("how", ["raise", "cancel", "exit", "yield", "block error"])
async def test_a_node_that_fails_without_waiting_fails_alone(how: str):
    journal = SlowJournal()
    begun(journal, [QUEUED], "fail", b=how)
    assert journal.types()[-3:] == ["node.output", "node.output", "node.failed"]
    journal.write()
    assert journal.types() == ["run.failed"]


async def test_a_node_that_never_waits_is_tried_again_if_it_shall_be_and_repeats_nothing(engine: Engine):
    settings = {"retry": {"times": 2, "delay_seconds": 0}}
    fails = {"block_id": "fail", "input_default": {"b": "raise"}, "settings": settings}
    graph = await engine.add("f.error -> p.a", f=fails, p="pass")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert run.status == "COMPLETED"
    types = [event.type for event in await engine.events(run.id)]
    assert types.count("node.waiting") == 2
    assert history.node_runs[1].outputs == {"out": ["before"], "error": [r"ZeroDivisionError: a bug\0"]}
