"""What a run may begin with that another of the same graph has done: the events that stay, as those of the new run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from backend.execution.dataflow import Dataflow, NodeInputs
from backend.graphs.topology import Topology
from backend.store.events import Event
from backend.store.large_values import without_large

# The events that may stay, and as what. A node run that stays was not begun by the run that keeps it.
STAYING = {
    "node.started": "node.kept",
    "node.kept": "node.kept",
    "node.output": "node.output",
    "node.completed": "node.completed",
    "node.failed": "node.failed",
    "run.output": "run.output",
    "run.warning": "run.warning",
}
# The number of the first of them: before it is the event that queued the run.
FIRST = 2


def downstream(topology: Topology, node_ids: Iterable[str]) -> set[str]:
    """These nodes, and all that a value of theirs may reach."""
    following: defaultdict[str, list[str]] = defaultdict(list)
    for (source, _), links in topology.outgoing.items():
        following[source] += [link.sink_id for link in links]
    found, to_do = set[str](), list(node_ids)
    while to_do:
        node_id = to_do.pop()
        if node_id not in found:
            found.add(node_id)
            to_do += following[node_id]
    return found


def failed_node_runs(topology: Topology, events: Iterable[Event]) -> set[int]:
    """The numbers of the node runs that failed while their error led nowhere."""
    handled = {node_id for node_id, pin in topology.outgoing if pin == "error"}
    return {e.data["node_run"] for e in events if e.type == "node.failed" and e.data["node_id"] not in handled}


def kept(
    topology: Topology,
    masked: Mapping[str, Collection[str]],
    events: Sequence[Event],
    *,
    again: Collection[str] = (),
    retried: Collection[int] = (),
) -> list[Event]:
    """The events of an ended run with which a new one begins, in which the nodes `again` run anew, and the node runs
    `retried` are tried again.

    `again` has to be closed downstream. A node run that was cut off or is tried again goes on: what it had put out
    stands, as after a crash.
    """
    numbers = _Numbers(Dataflow(topology, masked), Dataflow(topology, masked))
    staying: list[Event] = []
    seen: set[int] = set()
    for event in events:
        data = event.data
        numbers.follow(event, stays := event.type in STAYING and _stays(data, numbers, again, retried, event.type))
        if not stays or (STAYING[event.type] == "node.kept" and data["node_run"] in seen):
            continue
        seen.add(data["node_run"])
        small, large = without_large(data | {"node_run": numbers.new(data["node_run"])})
        text, number = orjson.dumps(small).decode(), FIRST + len(staying)
        staying.append(replace(event, number=number, type=STAYING[event.type], data=text, large=tuple(large.items())))
    return staying


def _stays(
    data: Mapping[str, Any], numbers: _Numbers, again: Collection[str], retried: Collection[int], type: str
) -> bool:
    if numbers.node_of(data["node_run"]) in again:
        return False
    failure = type == "node.failed" or (type == "node.output" and data["pin"] == "error")
    return not (failure and data["node_run"] in retried)


class _Numbers:
    """By the number of a node run in the old run its node, and its number in the new one.

    No value comes to a node that stays from one that does not: so its node runs become complete in the same order.
    """

    def __init__(self, old: Dataflow, new: Dataflow) -> None:
        self._old, self._new = old, new
        self._places: dict[int, tuple[str, int]] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._complete(old.start(), new.start())

    def follow(self, event: Event, stays: bool) -> None:
        """Send the value that an event of the old run tells of on its way, in the new one only if the event stays."""
        if event.type == "node.output":
            value = event.data["node_id"], event.data["pin"], event.data["value"]
            self._complete(self._old.deliver(*value), self._new.deliver(*value) if stays else [])

    def node_of(self, number: int) -> str:
        return self._places[number][0]

    def new(self, number: int) -> int:
        node_id, place = self._places[number]
        return self._numbers[node_id][place]

    def _complete(self, old: Iterable[NodeInputs], new: Iterable[NodeInputs]) -> None:
        for inputs in old:
            self._places[inputs.number] = inputs.node_id, self._counts[inputs.node_id]
            self._counts[inputs.node_id] += 1
        for inputs in new:
            self._numbers[inputs.node_id].append(inputs.number)
