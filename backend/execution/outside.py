"""What a node run waits for outside its run (a time, a person, another run), and the values it keeps there.

Whatever it waits for, a wait is the same: the event `node.waiting` says so, then the node looks whether it is over, and
looks again each time the run is woken. The run itself is parked in the database once all its nodes wait (run.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import UUID

from backend.blocks.outside import BlockError, Masks, Review
from backend.execution.belongings import Belongings
from backend.execution.dataflow import NodeInputs
from backend.execution.patience import patiently
from backend.graphs.graph import MAX_VERSION
from backend.settings import Settings
from backend.store import events, graphs, kept_values, reviews, runs
from backend.store.clock import CLOCK
from backend.store.connection import Queryable
from backend.store.events import ENDS, Event
from backend.store.identifiers import child_run_id, file_id, node_run_id
from backend.store.reviews import StoredReview
from backend.store.runs import StoredRun

# Runs that may be below one another: an agent that calls itself without end is told.
MAX_DEPTH = 20

# What a node run waits for between two tries.
RETRY = "retry"

# Events of a run below that are read at once.
READ_EVENTS = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """What a node run waits for at this moment; `due` is when it will be over, if that is known, by time.monotonic():
    no clock that jumps makes a wait shorter or longer as long as an executor has it."""

    review: bool = False
    due: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds until it is due."""
        return None if self.due is None else self.due - time.monotonic()


class Waiter(Protocol):
    """What a run does for its nodes that wait."""

    woken: asyncio.Event
    children: Children

    async def begin_wait(self, inputs: NodeInputs, number: int, what: dict[str, Any]) -> dict[str, Any]:
        """Write down the `number`th wait of a node run, or return it as it was written before."""
        ...

    def wait(self, inputs: NodeInputs, wait: Wait) -> None: ...

    def go_on(self, inputs: NodeInputs) -> None: ...


class NodeOutside(Belongings):
    """The outside of one node run, whose next wait is its `first`. The time it waits does not count towards `limit`."""

    def __init__(
        self,
        run: Waiter,
        stored: StoredRun,
        database: Queryable,
        settings: Settings,
        inputs: NodeInputs,
        *,
        first: int = 0,
    ) -> None:
        super().__init__(database, settings, stored.user_id)
        self._run = run
        self._stored = stored
        self._database = database
        self._inputs = inputs
        self._waits = first
        self._files = 0
        self.limit: asyncio.Timeout | None = None

    async def sleep(self, seconds: float) -> None:
        await self._sleep("time", seconds)

    async def before_retry(self, seconds: float, error: str) -> None:
        """Wait before the node run is tried once more after an error."""
        self.limit = None  # that of the last try is over
        await self._sleep(RETRY, seconds, error=error)

    async def _sleep(self, kind: str, seconds: float, **why: str) -> None:
        until = CLOCK.now() + timedelta(seconds=seconds)
        begun = await self._begin(kind, until=until.isoformat(), **why)
        due = time.monotonic() + (datetime.fromisoformat(begun["until"]) - CLOCK.now()).total_seconds()

        async def is_over() -> bool:
            return time.monotonic() >= due

        await self._until(is_over, Wait(due=due))

    async def review(self, payload: Any, instructions: str, editable: bool) -> Review:
        id = node_run_id(self._stored.id, self._inputs.number)
        await self._begin("review", review_id=str(id))
        number, node_id = self._inputs.number, self._inputs.node_id
        payload, text = self.redaction.value(payload), self.redaction.text(instructions.replace("\0", ""))
        await patiently(
            lambda: reviews.insert(self._database, self._stored, id, number, node_id, payload, text, editable)
        )

        async def decided() -> StoredReview | None:
            review = await reviews.get(self._database, id)
            return review if review and review.status != "WAITING" else None

        review = await self._until(decided, Wait(review=True))
        return Review(review.status == "APPROVED", review.reviewed_data, review.review_message or "")

    async def call(
        self, graph_id: str, version: int, inputs: dict[str, Any], masks: Masks | None
    ) -> AsyncGenerator[tuple[str, Any], None]:
        id, agent, name = await self._callee(graph_id, version)
        inputs, masks = self.redaction.value(inputs), self.redaction.value(masks)
        child = child_run_id(self._stored.id, self._inputs.number, self._waits)
        await self._begin("run", child_run_id=str(child))
        if child not in await patiently(self._children):
            node_run = self._inputs.number
            await patiently(
                lambda: runs.insert_child(self._database, self._stored, node_run, child, id, version, inputs, masks)
            )
        outputs = Outputs()

        async def more() -> list[Event]:
            newest = (await self._children()).get(child, 0)
            if newest <= outputs.seen:
                return []
            return await events.read(self._database, child, after=outputs.seen, limit=READ_EVENTS)

        while outputs.end is None:
            news = await self._until(more, Wait())
            for output in outputs.among(news):
                yield output
        if outputs.end.type == "run.failed":
            raise BlockError(f"the run {child} of the agent {name or agent} failed: {outputs.end.data['error']}")
        if outputs.end.type == "run.terminated":
            raise BlockError(f"the run {child} of the agent {name or agent} was stopped")

    async def keep(self, key: str, value: Any, *, across_agents: bool) -> None:
        scope, run_id, number = self._scope(across_agents), self._stored.id, self._inputs.number
        value = self.redaction.value(value)
        await patiently(lambda: kept_values.keep(self._database, run_id, number, scope, key, value))

    async def recall(self, key: str, *, across_agents: bool) -> Any:
        scope = self._scope(across_agents)
        return await patiently(lambda: kept_values.recall(self._database, scope, key))

    def next_file(self) -> UUID:
        self._files += 1
        return file_id(self._stored.id, self._inputs.number, self._files)

    def _children(self) -> Awaitable[Mapping[UUID, int]]:
        return self._run.children.newest(self._run.woken)

    def _scope(self, across_agents: bool) -> str:
        return str(self._stored.user_id if across_agents else self._stored.graph_id)

    async def _callee(self, graph_id: str, version: int) -> tuple[UUID, str, str]:
        if self._stored.depth >= MAX_DEPTH:
            most = f"{MAX_DEPTH} runs below the first, which is the most"
            raise BlockError(f"this run is {most}: does an agent call itself without end?")
        agent = f"{graph_id[:80]} in version {version}"
        with suppress(ValueError):
            id, version = UUID(graph_id), min(version, MAX_VERSION)
            name = await patiently(lambda: graphs.name_for(self._database, self._stored.id, id, version))
            if name is not None:
                return id, agent, name
        raise BlockError(f"there is no agent {agent}: import it, or choose another")

    async def _begin(self, kind: str, **what: Any) -> dict[str, Any]:
        self._waits += 1
        return await self._run.begin_wait(self._inputs, self._waits - 1, {"for": kind, **what})

    async def _until(self, look: Callable[[], Awaitable[T | None]], wait: Wait) -> T:
        """What `look` returns as soon as that is something."""
        clock = asyncio.get_running_loop()
        limit, began = self.limit, clock.time()
        end = limit.when() if limit else None
        if limit and end is not None:
            limit.reschedule(None)
        while True:
            woken = self._run.woken  # before the look: what happens after it is heard
            if found := await patiently(look):
                break
            self._run.wait(self._inputs, wait)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait.left):
                        await woken.wait()
            finally:
                self._run.go_on(self._inputs)
        if limit and end is not None:
            limit.reschedule(end + clock.time() - began)
        return found


class Children:
    """How far the runs have come that a run began: looked up for all that wait at once, each time the run is woken."""

    def __init__(self, database: Queryable, run_id: UUID) -> None:
        self._database = database
        self._run_id = run_id
        self._lock = asyncio.Lock()
        self._newest: Mapping[UUID, int] = {}
        self._as_of: asyncio.Event | None = None

    async def newest(self, woken: asyncio.Event) -> Mapping[UUID, int]:
        """The number of the last event by child. `woken` is what is set when there is more."""
        async with self._lock:
            if self._as_of is not woken:
                self._newest = await runs.newest_of_children(self._database, self._run_id)
                self._as_of = woken
        return self._newest

    async def ended(self, woken: Callable[[], asyncio.Event]) -> None:
        """Return when none of them is left that has not ended."""
        while True:
            news = woken()  # before the look: what happens after it is heard
            if not await patiently(lambda: runs.has_open_children(self._database, self._run_id)):
                return
            await news.wait()


class Outputs:
    """Reads the outputs of a run out of its events: what its output blocks put out on `output`, by their names."""

    def __init__(self) -> None:
        self.seen = 0
        self.end: Event | None = None
        self._names: dict[int, str] = {}

    def among(self, news: list[Event]) -> list[tuple[str, Any]]:
        """The outputs among the next events of the run."""
        return [output for event in news if (output := self._output(event))]

    def _output(self, event: Event) -> tuple[str, Any] | None:
        self.seen = event.number
        data = event.data
        if event.type in ENDS:
            self.end = event
        elif event.type == "run.output" and isinstance(data["name"], str):
            self._names[data["node_run"]] = data["name"]
        elif event.type == "node.output" and data["pin"] == "output" and data["node_run"] in self._names:
            return self._names[data["node_run"]], data["value"]
        return None
