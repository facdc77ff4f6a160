"""An executor's worker in this process, on a real database, with a few blocks that tests can steer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Unpack
from uuid import UUID, uuid4

import pytest

from backend.blocks import registry
from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Pins, pin
from backend.execution.executor import Worker
from backend.execution.history import History, fold
from backend.graphs.catalogue import BlockKind
from backend.settings import Settings
from backend.store import events, graphs, runs
from backend.store.connection import Pool, open_pool
from backend.store.events import EVENTS, Event
from backend.store.feed import Feed
from backend.store.identifiers import new_id
from backend.store.listener import listen
from backend.store.runs import Options, StoredRun

# The nodes that were run, by what their `name` pin says; those cut off at their gate; and the gates, which hold blocks
# until a test opens them.
calls: list[str] = []
cut_off: list[str] = []
gates: dict[str, asyncio.Event] = {}


class TestBlock(Block):
    __test__ = False
    categories = (Category.BASIC,)
    examples = ()

    class Input(BlockInput):
        name: str = pin("Name of this node", default="")
        a: Any = pin("Any value", default=None)
        b: Any = pin("Any value", default=None)
        value: Any = pin("Any value", default=None)

    class Output(BlockOutput):
        out: Any = pin("Any value")
        result: Any = pin("Any value")


class InBlock(TestBlock):
    """Passes on a run's input."""

    id = "in"
    kind = BlockKind.INPUT
    static_output = True

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield "result", input.value


class OutBlock(TestBlock):
    """A run's output."""

    id = "out"
    kind = BlockKind.OUTPUT
    static_output = True

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield "out", input.value


class PassBlock(TestBlock):
    """Passes on what it gets."""

    id = "pass"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        calls.append(input.name)
        yield "out", input.a


class PairBlock(TestBlock):
    """Makes a pair."""

    id = "pair"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield "out", [input.a, input.b]


class EachBlock(TestBlock):
    """Puts out each item of a list."""

    id = "each"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        calls.append(input.name)
        for item in input.a:
            yield "out", item


class GateBlock(TestBlock):
    """Waits for its gate. It puts out twice, once before."""

    id = "gate"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        calls.append(input.name)
        yield "out", f"before {input.a}"
        try:
            await gates[input.name].wait()
        except asyncio.CancelledError:
            cut_off.append(input.name)
            raise
        yield "out", f"after {input.a}"


class FailBlock(TestBlock):
    """Puts something out, then fails."""

    id = "fail"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield "out", "before"
        match input.b:
            case "raise":
                raise ZeroDivisionError("a bug\0")
            case "cancel":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit("gone")
            case "yield":
                yield "error", "its own words"
                yield "out", "never"
            case _:
                raise BlockError("cannot be done")


class FlakyBlock(TestBlock):
    """Puts out which call of its name this is, and fails in the first `a` of them."""

    id = "flaky"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        calls.append(input.name)
        number = calls.count(input.name)
        yield "out", f"try {number}"
        if number <= input.a:
            raise BlockError(f"try {number} failed")
        yield "out", "done"


class VaultBlock(TestBlock):
    """Fails, with a secret."""

    id = "vault"

    class Input(TestBlock.Input):
        password: str = pin("A secret", default="", secret=True)

    async def run(self, input: Input, context: Context) -> Pins:
        raise BlockError("stays closed")
        yield


class OddBlock(TestBlock):
    """Puts out what is not JSON."""

    id = "odd"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield "out", {"object": object(), "surrogate": "\ud800"}[input.a]


class DeepBlock(TestBlock):
    """Puts out a value with so many levels."""

    id = "deep"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        value: list[Any] = []
        for _ in range(1, input.a):
            value = [value]
        yield "out", value


class CountdownBlock(TestBlock):
    """Counts down one step at a time, through a cycle."""

    id = "countdown"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        yield ("out" if input.a > 0 else "result"), input.a - 1


@pytest.fixture(autouse=True)
def steered_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.clear()
    cut_off.clear()
    gates.clear()
    blocks = {**registry.blocks(), **{kind.id: kind() for kind in TestBlock.__subclasses__()}}
    monkeypatch.setattr(registry, "blocks", lambda: blocks)


@dataclass
class Working:
    """An executor at work."""

    worker: Worker
    stopping: asyncio.Event
    task: asyncio.Task[None]

    async def leave(self) -> None:
        """Hand over as on SIGTERM."""
        self.stopping.set()
        await self.task
        await self.worker.leave()


@dataclass
class Engine:
    """Queues runs and looks at them; `worker()` is an executor."""

    pool: Pool
    settings: Settings
    feed: Feed

    async def add(self, *links: str, **nodes: str | dict[str, Any]) -> UUID:
        """A graph from `name=block` (or a node with more to it) and links like `a.out -> b.in`."""
        graph_id = uuid4()
        document = {
            "id": str(graph_id),
            "nodes": [_node(name, node) for name, node in nodes.items()],
            "links": [as_link(link) for link in links],
        }
        await graphs.insert(self.pool, graph_id, 1, "graph", document)
        return graph_id

    async def queue(self, graph_id: UUID, **inputs: Any) -> UUID:
        return await self.queue_with(graph_id, inputs)

    async def queue_with(self, graph_id: UUID, inputs: dict[str, Any], **options: Unpack[Options]) -> UUID:
        return (await runs.insert(self.pool, new_id(), graph_id, 1, inputs, **options)).id

    async def run(self, graph_id: UUID, **inputs: Any) -> tuple[StoredRun, History]:
        """Queue a run and wait for its end."""
        return await self.end_of(await self.queue(graph_id, **inputs))

    async def end_of(self, run_id: UUID) -> tuple[StoredRun, History]:
        await self.feed.wait_for_end(run_id, 20)
        return await runs.get(self.pool, run_id), fold(await self.events(run_id))

    async def events(self, run_id: UUID) -> list[Event]:
        return await events.read(self.pool, run_id)

    async def until(self, run_id: UUID, happened: Callable[[Event], bool]) -> None:
        """Wait for an event of a run."""
        async with asyncio.timeout(20):
            async for batch in self.feed.follow(run_id, 0):
                if any(happened(item.event) for item in batch):
                    return

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncIterator[Working]:
        """An executor; at the end it leaves."""
        worker = Worker(self.pool, self.settings.model_copy(update=settings))
        stopping = asyncio.Event()
        await worker.join()
        working = Working(worker, stopping, asyncio.create_task(worker.work(self.settings.database_url, stopping)))
        try:
            yield working
        finally:
            await working.leave()


@pytest.fixture
async def gated(engine: Engine) -> UUID:
    """A graph that works through `first`, then waits at a gate that has put out one value."""
    gates["g"] = asyncio.Event()
    return await engine.add(
        "x.result -> first.a", "first.out -> g.a", "g.out -> last.a", "last.out -> y.value",
        x="in", first="pass", g="gate", last="pass", y="out",
    )  # fmt: skip


def before_the_gate(event: Event) -> bool:
    return event.type == "run.output"


def assert_gap_free(events: list[Event]) -> None:
    assert [event.number for event in events] == list(range(1, len(events) + 1))


def _node(name: str, node: str | dict[str, Any]) -> dict[str, Any]:
    given = {"block_id": node} if isinstance(node, str) else dict(node)
    defaults = {"name": name} | given.pop("input_default", {})
    return {"id": name, "input_default": defaults, **given}


def as_link(link: str) -> dict[str, str]:
    """A link of a graph from `a.out -> b.in`."""
    (source, source_name), (sink, sink_name) = (end.split(".") for end in link.split(" -> "))
    return {"source_id": source, "source_name": source_name, "sink_id": sink, "sink_name": sink_name}


@pytest.fixture
async def engine(database_url: str):
    settings = Settings(database_url=database_url)
    pool = await open_pool(settings)
    feed = Feed(pool, lambda run_id, event: b"")
    listening = asyncio.create_task(listen(database_url, (EVENTS,), feed.heard))
    yield Engine(pool, settings, feed)
    listening.cancel()
    feed.close()
    await asyncio.wait([listening])
    await pool.close()
