"""One run, from its first node to its last: starts node runs, writes down what they do, routes what they put out.

A run whose nodes all wait for something outside is parked: it goes back to the database and keeps no executor busy.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

import orjson
import structlog

from backend.blocks.block import BlockError, Context, Pins
from backend.blocks.coercion import InputError
from backend.blocks.json_values import as_text
from backend.execution import deaths, failure
from backend.execution.at_once import at_once, close_at_once, never_waits
from backend.execution.dataflow import Dataflow, NodeInputs
from backend.execution.journal import Journal
from backend.execution.never_ran import never_ran
from backend.execution.outside import RETRY, Children, NodeOutside, Wait
from backend.execution.plan import Plan, PlannedNode
from backend.execution.redaction import NO_SECRETS, Redaction, log_raised
from backend.graphs.pins import PinError, merge
from backend.settings import Settings
from backend.store.clock import CLOCK
from backend.store.connection import Queryable
from backend.store.events import Entry, Event
from backend.store.large_values import LARGE, without_large
from backend.store.runs import ENDED, StoredRun

# Seconds one try of a node run may take, without what it waits for, unless its settings say otherwise.
NODE_TIME_LIMIT = 30 * 60.0
# Bytes of JSON in one value that a node puts out.
MAX_VALUE_BYTES = 16 * 1024 * 1024
# Levels of arrays and objects in one.
MAX_DEPTH = 100
# What orjson takes; around a value, the lists with which it refuses one that has more than MAX_DEPTH.
ORJSON_DEPTH = 254
# Node runs of one run that work at the same time; the others wait for their turn.
MAX_WORKING = 100
# Entries of one run that may wait to be written before its nodes are held back.
MAX_UNWRITTEN = 1000
# Seconds that a run waits for a time with its executor; if longer, it is parked.
PARK_AFTER = 5.0
# Seconds a run that is stopped waits for the runs below it to end first.
STOP_WITHIN = 1.5

NOTHING = Counter[str]()

# What a block may raise that ends its node, besides that it is cancelled.
RAISED = (Exception, SystemExit)

log = structlog.get_logger()


class ValueRefused(Exception):
    """A block put out something that cannot be kept: too large, or not JSON."""


P = ParamSpec("P")


def _for_itself(act: Callable[Concatenate[Run, P], None]) -> Callable[Concatenate[Run, P], None]:
    """What goes wrong in it, and not in a block, ends this run, and not its executor with all the others."""

    @wraps(act)
    def acting(run: Run, *args: P.args, **named: P.kwargs) -> None:
        try:
            act(run, *args, **named)
        except Exception as error:
            run.break_off(error, "the executor made a mistake")

    return acting


class Run:
    """One attempt at a run. It ends by itself, by `stop`, by `hand_over`, or without a trace by `abandon`; at its end
    `ended` is called. `news` is called after whatever the run above this one may wait for."""

    def __init__(
        self,
        stored: StoredRun,
        plan: Plan,
        journal: Journal,
        settings: Settings,
        ended: Callable[[Run], None],
        database: Queryable,
        news: Callable[[], None] | None,
    ) -> None:
        self.id: UUID = stored.id
        self._ended = ended
        self._database = database
        self._news = news
        self._stored = stored
        self._plan = plan
        self._journal = journal
        self._settings = settings
        self._masks = stored.masks
        self._dataflow = Dataflow(plan.topology, self._masks)
        self._number = 0
        self._ready: deque[NodeInputs] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        # Node runs begun whose end is not yet written; the run is over when none is left.
        self._open: dict[int, NodeInputs] = {}
        self._unwritten = 0
        self._room = asyncio.Event()
        self._over = False
        self._leaving = False
        self._stays = False
        self._stopping: asyncio.Task[None] | None = None
        # Whether an executor died over the run: then what begins is written before it works, so that it can be named.
        self._careful = False
        self._begun: dict[int, str] = {}
        # The first node run that failed without its error leading anywhere, and why.
        self._failure: tuple[NodeInputs, str] | None = None
        # What node runs had put out before they were cut off or tried again, by pin: it stands, not to be repeated.
        self._recorded: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._results: set[int] = set()
        self._warned: set[tuple[int, str]] = set()
        # The waits of node runs as they were written, and those that node runs are in.
        self._waits: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._waiting: dict[int, Wait] = {}
        # Set, and replaced by a new one, whenever something may have happened that a node waits for.
        self.woken = asyncio.Event()
        self.children = Children(database, stored.id)
        # What is logged of the run has what is bound where it begins; much of it goes on from other tasks.
        self._logged = copy_context()

    @_for_itself
    def begin(self, events: Sequence[Event]) -> None:
        """Start, or go on from the events that earlier attempts wrote."""
        self._careful = any(event.type == "run.rescued" for event in events)
        self._number = events[-1].number
        try:
            self._ready.extend(self._replay(events))
        except Exception as error:
            return self.break_off(error, "what it has written does not fit its graph, as the blocks are now")
        # Not by the attempt: an earlier one may have let go of the run before it wrote anything.
        first = "run.resumed" if any(event.type == "run.started" for event in events) else "run.started"
        self._write([self._event(first, {"attempt": self._stored.attempt})])
        if self._stored.stop_requested:
            return self.stop()
        if self._stored.attempt > deaths.MAX_DEATHS and (reason := deaths.fatal(events, self._plan)):
            return self._end([self._event("run.failed", {"error": reason})], "FAILED", reason)
        self._go_on()

    @_for_itself
    def stop(self) -> None:
        """End the run: what is running is cancelled and recorded as terminated. Runs below it have a moment to end."""
        if self._over or self._stopping:
            return
        begun = [*self._open, *(inputs.number for inputs in self._ready)]
        if any(wait["for"] == "run" for number in begun for wait in self._waits.get(number, ())):
            self._stopping = asyncio.create_task(self._stop_after_children())
        else:
            self._stop_now()

    async def _stop_after_children(self) -> None:
        for number in self._tasks.keys() - self._waiting.keys():
            self._tasks[number].cancel()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_WITHIN):
                    await self.children.ended(lambda: self.woken)
        finally:
            self._stop_now()

    @_for_itself
    def _stop_now(self) -> None:
        if not self._over:
            events = [self._node_event("node.terminated", self._open[number]) for number in self._tasks]
            self._end([*events, self._event("run.terminated", self._rest())], "TERMINATED", None)

    @_for_itself
    def hand_over(self) -> None:
        """Begin no more nodes; once those that work have finished and are written, put the run back into the queue."""
        self._leaving = True
        self._go_on()

    def stay(self) -> bool:
        """Do not park the run before the next `wake`. False if this attempt is over: who comes next has to look."""
        self._stays = True
        return not self._over

    def wake(self) -> None:
        """Let the nodes that wait look again."""
        self._stays = False
        self.woken.set()
        self.woken = asyncio.Event()

    def abandon(self) -> None:
        """Let go of the run without a word: it belongs to another executor, or will."""
        if not self._over:
            self._over = True
            self._cancel()
            self._ended(self)

    def break_off(self, error: Exception, why: str) -> None:
        """Let the run fail for something that is not its blocks' fault."""
        self._logged.run(log.error, "a run cannot go on", why=why, exc_info=error)
        if not self._over:
            reason = f"{why} ({type(error).__name__}; the log says more): start the run anew"
            self._end([self._event("run.failed", {"error": reason})], "FAILED", reason)

    # Starting

    def _replay(self, events: Iterable[Event]) -> list[NodeInputs]:
        todo = {inputs.number: inputs for inputs in self._dataflow.start()}
        for event in events:
            data = event.data
            if event.type == "node.started":
                self._begun[data["node_run"]] = data["node_id"]
            elif event.type == "node.output":
                self._recorded[data["node_run"]][data["pin"]] += 1
                for inputs in self._dataflow.deliver(data["node_id"], data["pin"], data["value"]):
                    todo[inputs.number] = inputs
            elif event.type == "run.output":
                self._results.add(data["node_run"])
            elif event.type == "run.warning":
                self._warned.add((data["node_run"], data["message"]))
            elif event.type == "node.waiting":
                self._waits[data["node_run"]].append(data)
            elif event.type in ("node.completed", "node.failed"):
                self._note_end(todo.pop(data["node_run"]), data.get("error"))
        return list(todo.values())

    def _go_on(self) -> None:
        while self._ready and self._may_start():
            self._start(self._ready.popleft())
        # Nothing works; and nothing that is being written can set anything to work.
        if self._over or self._stopping:
            return
        if len(self._open) > len(self._waiting) or (self._waiting and self._unwritten):
            return
        if self._ready:
            self._end([], "QUEUED", None)
        elif self._waiting:
            self._park()
        else:
            self._finish()

    def _may_start(self) -> bool:
        if self._leaving or self._stopping:
            return False
        return len(self._tasks) - len(self._waiting) < MAX_WORKING and self._unwritten <= MAX_UNWRITTEN

    def _park(self) -> None:
        if self._stays:
            return
        left = min((wait.left for wait in self._waiting.values() if wait.left is not None), default=None)
        if left is not None and left < PARK_AFTER and not self._leaving:
            return
        due = None if left is None else CLOCK.now() + timedelta(seconds=left)
        status = "REVIEW" if all(wait.review for wait in self._waiting.values()) else "RUNNING"
        self._end([self._event("run.waiting", {"status": status})], status, None, due)

    def _start(self, inputs: NodeInputs) -> None:
        node = self._plan.nodes[inputs.node_id]
        self._open[inputs.number] = inputs
        self._begun[inputs.number] = inputs.node_id
        try:
            data = self._gather(node, inputs)
        except PinError as error:
            self._write([self._started(inputs, inputs.values)])
            return self._fail(inputs, str(error))
        events = [] if inputs.number in self._waits else [self._started(inputs, data)]
        if node.is_output and inputs.number not in self._results:
            output = {"name": as_text(data.get("name")), "value": data.get("value"), "node_run": inputs.number}
            events.append(self._event("run.output", output))
        self._write(events)
        self._execute(node, inputs, data)

    def _gather(self, node: PlannedNode, inputs: NodeInputs) -> dict[str, Any]:
        mask = self._masks.get(node.id, {})
        if node.is_call:
            return {**node.defaults, "inputs": merge({**node.defaults["inputs"], **inputs.values, **mask})}
        data = {**node.defaults, **inputs.values}
        # A run's input is what its nodes begin with; a value that comes along a link later is another one.
        if not inputs.values and node.input_name is not None and node.input_name in self._stored.inputs:
            data["value"] = self._stored.inputs[node.input_name]
        return merge(data | mask)

    # Running one node

    def _execute(self, node: PlannedNode, inputs: NodeInputs, data: dict[str, Any]) -> None:
        """Run a block: here and now if it never waits, else in a task."""
        try:
            block_input, warnings = node.prepare(data)
        except InputError as reason:
            return self._end_node(inputs, str(reason))
        self._warn(inputs, warnings)
        if node.settings.retry:
            return self._begin_task(inputs, partial(self._try_all, node, inputs, block_input))
        outside = self._outside(inputs, 0)
        try:
            outputs = self._call(node, inputs, block_input, outside)
            if never_waits(outputs) and not self._careful and self._logged.run(self._work_off, node, inputs, outputs):
                return self._end_node(inputs, None)
        except (*RAISED, asyncio.CancelledError) as raised:  # which nobody but the block can have raised here
            return self._end_node(inputs, self._reason(node, raised))
        self._begin_task(inputs, partial(self._try, node, inputs, lambda: outputs, outside))

    def _outside(self, inputs: NodeInputs, first: int) -> NodeOutside:
        return NodeOutside(self, self._stored, self._database, self._settings, inputs, first=first)

    def _warn(self, inputs: NodeInputs, warnings: Iterable[str]) -> None:
        for warning in warnings:
            if (inputs.number, warning) not in self._warned:
                self._write([self._node_event("run.warning", inputs, message=warning)])

    def _call(self, node: PlannedNode, inputs: NodeInputs, block_input: Any, outside: NodeOutside) -> Pins:
        return node.block.run(block_input, self._context(node, inputs, outside))

    def _work_off(self, node: PlannedNode, inputs: NodeInputs, outputs: Pins) -> bool:
        """Write what a block puts out that never waits; False if it puts out more than there is room for now."""
        left = self._recorded.get(inputs.number, NOTHING)
        try:
            for pin, value in at_once(outputs):
                self._take(node, inputs, left, pin, value)
                if self._unwritten > MAX_UNWRITTEN:
                    return False
        except RAISED:
            close_at_once(outputs)
            raise
        return True

    def _begin_task(self, inputs: NodeInputs, work: Callable[[], Awaitable[str | None]]) -> None:
        self._tasks[inputs.number] = asyncio.create_task(self._work(inputs, work), context=self._logged.copy())

    async def _work(self, inputs: NodeInputs, work: Callable[[], Awaitable[str | None]]) -> None:
        error = await work()
        # What fails while the run is being stopped is terminated with it: it failed for that, perhaps.
        if not (self._over or (self._stopping and error is not None)):
            del self._tasks[inputs.number]
            self._end_node(inputs, error)

    async def _try_all(self, node: PlannedNode, inputs: NodeInputs, block_input: Any) -> str | None:
        """Run the block, again if it fails and the node's settings say so. Returns the error of the last try."""
        waits = self._waits.get(inputs.number, ())
        retries = [number for number, wait in enumerate(waits) if wait["for"] == RETRY]
        outside = self._outside(inputs, retries[-1] if retries else 0)
        if retries:  # by an earlier attempt at the run: the time is not over, perhaps
            await outside.before_retry(0, "")
        made = len(retries)
        call = partial(self._call, node, inputs, block_input, outside)
        while (error := await self._try(node, inputs, call, outside)) is not None:
            retry = node.settings.retry
            if self._over or self._stopping or retry is None or made >= retry.times:
                break
            await outside.before_retry(min(retry.delay_seconds * retry.factor**made, retry.max_delay_seconds), error)
            made += 1
        return error

    async def _try(
        self, node: PlannedNode, inputs: NodeInputs, call: Callable[[], Pins], outside: NodeOutside
    ) -> str | None:
        """Run the block in what time it has, and write what it puts out. Returns its error."""
        seconds = node.settings.timeout_seconds or NODE_TIME_LIMIT
        outside.limit = limit = asyncio.timeout(seconds)
        left = Counter[str](self._recorded.get(inputs.number, NOTHING))
        try:
            async with limit, aclosing(call()) as outputs:
                async for pin, value in outputs:
                    self._take(node, inputs, left, pin, outside.redaction.value(value))
                    await self._until_there_is_room()
        except (*RAISED, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError) and _is_cancelled():
                raise
            late = f"took longer than {seconds:g} s" if limit.expired() else None
            return self._reason(node, raised, late, outside.redaction)
        return None

    def _take(self, node: PlannedNode, inputs: NodeInputs, left: Counter[str], pin: str, value: Any) -> None:
        """Write what a block puts out, unless it is among what is `left` of what it had put out before."""
        if pin == "error":
            raise BlockError(str(value))
        if left[pin] > 0:
            left[pin] -= 1
        else:
            self._put_out(inputs, pin, value)
            if node.settings.retry:
                self._recorded[inputs.number][pin] += 1

    def _reason(
        self, node: PlannedNode, raised: BaseException, late: str | None = None, redaction: Redaction = NO_SECRETS
    ) -> str:
        """Why a node failed. A block may raise anything; that ends its node, not the run or the executor."""
        if isinstance(raised, (BlockError, ValueRefused)):
            return redaction.text(str(raised))
        if late:
            return late
        self._logged.run(log_raised, raised, redaction, node=node.id, block=node.block.name)
        return redaction.text(f"{type(raised).__name__}: {raised}")

    @_for_itself
    def _end_node(self, inputs: NodeInputs, error: str | None) -> None:
        if error is None:
            self._write([self._node_event("node.completed", inputs)], lambda: self._close(inputs, None))
        else:
            self._fail(inputs, error)

    async def _until_there_is_room(self) -> None:
        while self._unwritten > MAX_UNWRITTEN:
            self._room.clear()
            await self._room.wait()

    def _context(self, node: PlannedNode, inputs: NodeInputs, outside: NodeOutside) -> Context:
        return Context(
            run_id=str(self.id),
            graph_id=str(self._plan.graph_id),
            graph_version=self._plan.graph_version,
            node_id=node.id,
            node_run=inputs.number,
            token=f"{self.id}:{inputs.number}",
            trusted_hosts=self._settings.trusted_hosts,
            outside=outside,
        )

    def _put_out(self, inputs: NodeInputs, pin: str, value: Any) -> None:
        raw = _as_json(pin, value)
        event = self._node_event("node.output", inputs, pin=pin, value=orjson.Fragment(raw))
        # What travels on is what was written, so that a run taken up elsewhere sees the same; and nobody's to change.
        self._write([event], lambda: self._route(inputs.node_id, pin, orjson.loads(raw)))

    def _route(self, node_id: str, pin: str, value: Any) -> None:
        self._ready.extend(self._dataflow.deliver(node_id, pin, value))
        if self._news and self._plan.nodes[node_id].is_output:
            self._news()
        self._go_on()

    # Waiting

    async def begin_wait(self, inputs: NodeInputs, number: int, what: dict[str, Any]) -> dict[str, Any]:
        """Write down the `number`th wait of a node run, or return it as it was written before."""
        waits = self._waits[inputs.number]
        if number == len(waits):
            written = asyncio.Event()
            waits.append(what)
            self._write([self._node_event("node.waiting", inputs, **what)], written.set)
            await written.wait()
        return waits[number]

    def wait(self, inputs: NodeInputs, wait: Wait) -> None:
        """A node run waits now: others may work, or the whole run may be parked."""
        self._waiting[inputs.number] = wait
        self._go_on()

    def go_on(self, inputs: NodeInputs) -> None:
        """A node run does not wait any more."""
        del self._waiting[inputs.number]

    # Ending

    def _fail(self, inputs: NodeInputs, error: str) -> None:
        error = error.replace("\0", "\\0").encode(errors="replace").decode()
        event = self._node_event("node.output", inputs, pin="error", value=error)
        failed = self._node_event("node.failed", inputs, error=error)
        self._write([event, failed], lambda: self._route_error(inputs, error))

    def _route_error(self, inputs: NodeInputs, error: str) -> None:
        self._route(inputs.node_id, "error", error)
        self._close(inputs, error)

    def _close(self, inputs: NodeInputs, error: str | None) -> None:
        self._note_end(inputs, error)
        self._recorded.pop(inputs.number, None)
        del self._open[inputs.number]
        self._go_on()

    def _note_end(self, inputs: NodeInputs, error: str | None) -> None:
        node = self._plan.nodes[inputs.node_id]
        if error is not None and not node.handles_error and self._failure is None:
            self._failure = (inputs, error)

    def _finish(self) -> None:
        if self._failure is None:
            return self._end([self._event("run.completed", self._rest())], "COMPLETED", None)
        found = self._described(*self._failure)
        error = f"{found['node']} failed: {found['error']}"
        self._end([self._event("run.failed", {"error": error, "failure": found, **self._rest()})], "FAILED", error)

    def _rest(self) -> dict[str, Any]:
        """What is left of the run at its end: node runs that lack values, and the nodes that never ran."""
        waiting = [
            {"node_id": inputs.node_id, "node_run": inputs.number, "pins": pins}
            for inputs, pins in self._dataflow.incomplete()
        ]
        unbegun = dict.fromkeys(inputs.node_id for inputs in self._ready) if self._ready else {}
        for node_id in self._begun.values() if unbegun else ():
            unbegun.pop(node_id, None)
        stopped = [{"node_id": node_id, "reason": "the run was stopped before its turn"} for node_id in unbegun]
        return {"waiting": waiting, "never_ran": [*never_ran(self._plan, self._dataflow), *stopped]}

    def _described(self, inputs: NodeInputs, error: str) -> dict[str, Any]:
        try:
            data = self._gather(self._plan.nodes[inputs.node_id], inputs)
        except PinError:
            data = inputs.values
        return failure.describe(self._plan, self._stored, inputs.node_id, inputs.number, error, data)

    def _end(self, events: list[Event], status: str, error: str | None, wake_at: datetime | None = None) -> None:
        self._over = True
        self._logged.run(log.debug, "let go of a run", status=status)
        self._cancel()
        entry = Entry(self.id, self._stored.attempt, events, status, error, wake_at, len(self._begun))
        self._journal.append(entry, lambda _: self._let_go(status in ENDED))

    def _let_go(self, for_good: bool) -> None:
        self._ended(self)
        if self._news and for_good:
            self._news()

    def _cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._room.set()

    # Writing

    def _write(self, events: list[Event], then: Callable[[], None] = lambda: None) -> None:
        self._unwritten += 1
        self._journal.append(Entry(self.id, self._stored.attempt, events), partial(self._written, then))

    @_for_itself
    def _written(self, then: Callable[[], None], owned: bool) -> None:
        self._unwritten -= 1
        if self._unwritten == MAX_UNWRITTEN:
            self._room.set()
        if self._over:
            return
        if not owned:
            return self.abandon()
        then()
        if self._unwritten == MAX_UNWRITTEN or (self._waiting and not self._unwritten):
            self._go_on()

    def _event(self, type: str, data: dict[str, Any]) -> Event:
        self._number += 1
        raw = orjson.dumps(data)
        if len(raw) <= LARGE:
            return Event(self._number, type, raw.decode())
        small, large = without_large(data)
        return Event(self._number, type, orjson.dumps(small).decode(), large=tuple(large.items()))

    def _started(self, inputs: NodeInputs, data: dict[str, Any]) -> Event:
        return self._node_event("node.started", inputs, block_id=self._plan.nodes[inputs.node_id].block.id, inputs=data)

    def _node_event(self, type: str, of: NodeInputs, **data: Any) -> Event:
        return self._event(type, {"node_run": of.number, "node_id": of.node_id, **data})


def _is_cancelled() -> bool:
    """Whether somebody ends the task that runs, and a block does not merely say so of something of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_json(pin: str, value: Any) -> bytes:
    try:
        raw = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise ValueRefused(f"the value of pin `{pin}` cannot be written as JSON: {error}") from error
    if len(raw) > MAX_VALUE_BYTES:
        limit = MAX_VALUE_BYTES // (1024 * 1024)
        raise ValueRefused(f"the value of pin `{pin}` has {len(raw)} bytes of JSON; {limit} MiB is the limit")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise ValueRefused(f"the value of pin `{pin}` is nested deeper than {MAX_DEPTH} levels")
    return raw


def _is_too_deep(value: Any) -> bool:
    for _ in range(ORJSON_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return True
    return False
