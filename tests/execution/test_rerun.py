"""What a rerun begins with is a run as the rule allows it, cut off at some point; so it can go on."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import orjson
import pytest

from backend.execution.plan import make_plan
from backend.execution.rerun import downstream, failed_node_runs, kept
from backend.graphs.graph import Graph
from backend.graphs.topology import Topology
from backend.store.events import Event
from tests.execution.in_memory import BUDGET, RUN, MemoryJournal, execute, execute_once, stored_run
from tests.execution.random_graphs import NODE_IDS, SMALL, STEPS, random_graph, with_masks
from tests.execution.test_rule import Checked, script_blocks

__all__ = ["script_blocks"]

AGENTS = 400


@pytest.mark.parametrize("how", ["from some nodes on", "what failed"])
def test_a_rerun_of_any_agent_does_what_the_rule_says_and_nothing_that_it_keeps(how: str):
    compared = 0
    for seed in range(AGENTS):
        random = Random(seed)
        document, masks = with_masks(random, random_graph(random))
        given = {id: random.choice(SMALL) for id in NODE_IDS}
        first = asyncio.run(execute(document, masks, given, seed, []))
        # A block of these puts nothing out after so many node runs, which a rerun numbers otherwise.
        if not first.end or any(event.data.get("node_run", 0) > STEPS // 2 for event in first.events):
            continue
        plan = make_plan(Graph.model_validate(document), RUN, 1)
        again = downstream(plan.topology, [id for id in plan.nodes if random.random() < 0.2])
        staying = _kept(plan.topology, masks, first.events, again, how)
        journal = MemoryJournal(random, BUDGET)
        asyncio.run(execute_once(plan, stored_run(given, masks, 1), journal, [Event(1, "run.queued", {}), *staying]))
        log = [*staying, *journal.events]
        assert [event.number for event in log] == list(range(2, len(log) + 2))
        done = {event.data["node_run"] for event in staying if event.type in ("node.completed", "node.failed")}
        assert done.isdisjoint(e.data["node_run"] for e in journal.events if e.type == "node.started")
        if how == "from some nodes on":
            assert again.isdisjoint(e.data["node_id"] for e in staying if "node_id" in e.data)
        if journal.end:
            Checked(document, masks, given, _as_one_run(log)).assert_end(journal.end.status, journal.end.error)
            compared += 1
    assert compared > AGENTS // 2


def _kept(topology: Topology, masks: Any, events: list[Event], again: set[str], how: str) -> list[Event]:
    if how == "what failed":
        found = kept(topology, masks, events, retried=failed_node_runs(topology, events))
    else:
        found = kept(topology, masks, events, again=again)
    return [Event(event.number, event.type, orjson.loads(event.data)) for event in found]


def _as_one_run(log: list[Event]) -> list[Event]:
    """As if the same run had been cut off and taken up again."""
    types: dict[str, Any] = {"node.kept": "node.started", "run.started": "run.resumed"}
    return [Event(event.number, types.get(event.type, event.type), event.data) for event in log]


def test_a_node_run_that_was_cut_off_and_begun_again_is_kept_once():
    document = {"nodes": [{"id": "a", "block_id": "silent", "input_default": {}, "metadata": {}}], "links": []}
    plan = make_plan(Graph.model_validate(document), RUN, 1)
    started = {"node_run": 1, "node_id": "a", "block_id": "silent", "inputs": {}}
    log = [Event(n, "node.started", started) for n in (2, 3)] + [
        Event(4, "node.completed", {"node_run": 1, "node_id": "a"})
    ]
    assert [event.type for event in kept(plan.topology, {}, log)] == ["node.kept", "node.completed"]
