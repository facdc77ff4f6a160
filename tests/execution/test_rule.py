"""The engine follows the execution rule: in thousands of random agents it does what the reference interpreter does."""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.blocks import registry
from backend.execution.dataflow import Dataflow, NodeInputs
from backend.execution.executor import Worker
from backend.graphs.graph import Graph
from backend.graphs.topology import topology
from backend.store import events, queue
from backend.store import graphs as store
from backend.store.events import ENDS, Entry, Event
from tests.execution.engine import Engine, assert_gap_free
from tests.execution.in_memory import execute
from tests.execution.random_graphs import (
    BLOCKS,
    KINDS,
    NODE_IDS,
    SMALL,
    SPECS,
    crossroads,
    deaths,
    graphs,
    inputs,
    outputs_of,
    random_graph,
    small,
    with_masks,
)
from tests.execution.reference_interpreter import DoesNotFit, Execution, ReferenceRun, base_of

# How many random agents: RULE_EXAMPLES=20000 for a long look.
EXAMPLES = int(os.environ.get("RULE_EXAMPLES", "1000"))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="RULE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
Document = dict[str, Any]


@pytest.fixture(autouse=True)
def script_blocks(steered_blocks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "blocks", lambda: BLOCKS)
    monkeypatch.setattr(registry, "catalogue", lambda: SPECS)


# Values as they come: from anywhere in any order


# Each along one of the links (by its place), and from its source along others.
_deliveries = st.lists(st.tuples(st.integers(0, 9), small), max_size=25)


@thorough
@given(crossroads | graphs, _deliveries)
def test_values_pair_up_as_the_rule_says_in_whatever_order_they_come(
    masked: tuple[Document, Document], deliveries: list[tuple[int, Any]]
):
    document, masks = masked
    links = document["links"]
    flow = Dataflow(topology(Graph.model_validate(document), SPECS), masks)
    reference = ReferenceRun(document, {}, KINDS, masks)
    assert _told(flow.start()) == _expected(reference.start())
    for place, value in deliveries if links else []:
        node_id = links[place % len(links)]["source_id"]
        pin = base_of(links[place % len(links)]["source_name"])
        assert _told(flow.deliver(node_id, pin, value)) == _expected(reference.put_out(node_id, pin, value))
    waiting = {inputs.number: (inputs.node_id, set(pins)) for inputs, pins in flow.incomplete()}
    assert waiting == {
        each.number: (each.node["id"], reference.lacks(each)) for each in reference.executions if not each.complete
    }


def _told(complete: list[NodeInputs]) -> list[tuple[int, str, dict[str, Any]]]:
    return [(inputs.number, inputs.node_id, inputs.values) for inputs in complete]


def _expected(complete: list[Execution]) -> list[tuple[int, str, dict[str, Any]]]:
    return [(execution.number, execution.node["id"], execution.got) for execution in complete]


# Whole runs


@thorough
@given(graphs, inputs, st.integers(0, 999), deaths)
def test_a_run_does_what_the_rule_says_however_often_its_executor_dies(
    masked: tuple[Document, Document], given: dict[str, Any], seed: int, deaths: list[int]
):
    document, masks = masked
    journal = asyncio.run(execute(document, masks, given, seed, deaths))
    assert [event.number for event in journal.events] == list(range(1, len(journal.events) + 1))
    checked = Checked(document, masks, given, journal.events)
    if journal.end:
        checked.assert_end(journal.end.status, journal.end.error)


# Whole runs in PostgreSQL


async def test_a_run_whose_executor_is_killed_anywhere_goes_on_by_the_rule_in_another(engine: Engine):
    at_most = EXAMPLES // 40
    killed = 0
    for seed in range(at_most):
        random = Random(seed)
        document, masks = with_masks(random, random_graph(random))
        given = {id: random.choice(SMALL) for id in NODE_IDS}
        alone = await execute(document, masks, given, seed, [])
        if not alone.end or len(alone.events) < 4:
            continue  # it goes on for ever, or nothing happens in it
        run_id = await _queue(engine, document, masks, given)
        killed += await _kill_after(engine, random.randrange(2, len(alone.events)))
        async with engine.worker():
            run, _ = await engine.end_of(run_id)
        log = await engine.events(run_id)
        assert_gap_free(log)
        Checked(document, masks, given, log).assert_end(run.status, run.error)
    assert killed > at_most // 4


async def _queue(engine: Engine, document: Document, masks: Document, given: dict[str, Any]) -> UUID:
    graph_id = uuid4()
    await store.insert(engine.pool, graph_id, 1, "random", document | {"id": str(graph_id)})
    return await engine.queue_with(graph_id, given, input_masks=masks or None)


async def _kill_after(engine: Engine, number: int) -> bool:
    """Let an executor work on a run until this event of it is written, and kill it; whether the run was rescued."""
    worker = Worker(engine.pool, engine.settings)
    await worker.join()
    with pytest.MonkeyPatch.context() as patch:
        written = _nothing_after(number, patch)
        dying = asyncio.create_task(worker.work(engine.settings.database_url, asyncio.Event()))
        await written.wait()
        dying.cancel()
        await asyncio.wait([dying])
    await engine.pool.execute("DELETE FROM executors")
    return bool(await queue.rescue(engine.pool))


def _nothing_after(number: int, patch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have the write that contains this event, or the last one of the run, be the last; set when it is done."""
    written = asyncio.Event()
    append = events.append

    async def append_the_last(connection: Any, entries: list[Entry]) -> set[UUID]:
        owned = await append(connection, entries)
        if any(event.number >= number or event.type in ENDS for entry in entries for event in entry.events):
            written.set()
            await asyncio.Event().wait()
        return owned

    patch.setattr(events, "append", append_the_last)
    return written


class Checked:
    """A log of a run, read as one of the orders in which the reference interpreter may go.

    Which executions there are, with which numbers and inputs, follows from the order of the outputs in the log; what
    each puts out, and in which order, follows from its input. When an execution begins, and whose output comes next,
    is free.
    """

    def __init__(self, document: Document, masks: Document, inputs: dict[str, Any], log: list[Event]) -> None:
        self.reference = ReferenceRun(document, inputs, KINDS, masks)
        self.ready = {execution.number: execution for execution in self.reference.start()}
        self.at_work: dict[int, Execution] = {}
        # What an execution has still to put out; None stands for an error in the engine's words.
        self.to_come: dict[int, list[tuple[str, Any]]] = {}
        self.results: set[int] = set()
        self.unhandled: list[str] = []
        self.warned: set[tuple[int, str]] = set()
        self.last = log[-1]
        for event in log:
            getattr(self, "on_" + event.type.replace(".", "_"), lambda **_: None)(**event.data)

    def on_run_resumed(self, **_: Any) -> None:
        self.ready |= self.at_work
        self.at_work = {}

    def on_node_started(self, node_run: int, node_id: str, inputs: dict[str, Any], **_: Any) -> None:
        execution = self.ready.pop(node_run)
        assert execution.node["id"] == node_id
        self.at_work[node_run] = execution
        try:
            expected = self.reference.input_of(execution)
            outputs = outputs_of(execution.node["block_id"], node_run, expected)
        except DoesNotFit:
            expected, outputs = execution.got, [("error", None)]
        assert inputs == expected
        self.to_come.setdefault(node_run, outputs)

    def on_node_output(self, node_run: int, node_id: str, pin: str, value: Any) -> None:
        execution = self.at_work[node_run]
        expected_pin, expected = self.to_come[node_run].pop(0)
        assert (node_id, pin) == (execution.node["id"], expected_pin)
        assert value == expected or (pin == "error" and expected is None)
        for each in self.reference.put_out(node_id, pin, value):
            self.ready[each.number] = each
        if pin == "error" and not self.reference.handles_error(execution.node):
            self.unhandled.append(node_id)

    def on_node_completed(self, node_run: int, **_: Any) -> None:
        assert self.to_come[node_run] == []
        del self.at_work[node_run]

    def on_node_failed(self, node_run: int, **_: Any) -> None:
        self.on_node_completed(node_run)

    def on_run_warning(self, node_run: int, message: str, **_: Any) -> None:
        assert node_run in self.at_work
        assert (node_run, message) not in self.warned
        self.warned.add((node_run, message))

    def on_run_output(self, name: str, value: Any, node_run: int) -> None:
        execution = self.at_work[node_run]
        assert execution.node["block_id"] == "output"
        assert node_run not in self.results
        expected = self.reference.input_of(execution)
        assert (name, value) == (expected["name"], expected.get("value"))
        self.results.add(node_run)

    def assert_end(self, status: str | None, error: str | None) -> None:
        assert (self.ready, self.at_work) == ({}, {})
        assert self.results == self._executions_of("output")
        assert status == ("FAILED" if self.unhandled else "COMPLETED")
        assert error is None or f"({self.unhandled[0]}) failed: " in error
        assert {each["node_id"] for each in self.last.data["never_ran"]} == self.reference.never_ran()
        waiting = {each["node_run"]: (each["node_id"], set(each["pins"])) for each in self.last.data["waiting"]}
        assert waiting == {
            each.number: (each.node["id"], self.reference.lacks(each))
            for each in self.reference.executions
            if not each.complete
        }

    def _executions_of(self, block_id: str) -> set[int]:
        fit: set[int] = set()
        for each in self.reference.executions:
            if each.complete and each.node["block_id"] == block_id:
                try:
                    self.reference.input_of(each)
                    fit.add(each.number)
                except DoesNotFit:
                    pass
        return fit
