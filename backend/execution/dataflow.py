"""Which node runs next: how values travel along links and pair up into the inputs of node runs.

Pure and deterministic: the same deliveries in the same order make the same node runs with the same numbers. That is
what lets a run be taken up by another executor from nothing but its events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from backend.graphs.graph import Link
from backend.graphs.pins import MISSING, base, extract
from backend.graphs.topology import Topology

NOTHING_MASKED: Mapping[str, Collection[str]] = {}


@dataclass(slots=True)
class NodeInputs:
    """The inputs of one node run, complete or still being gathered. `values` is by exact pin name, as linked."""

    number: int
    node_id: str
    values: dict[str, Any]


class _Gathering:
    """What one node is waiting for. The oldest node run that lacks a pin gets the next value of that pin (FIFO)."""

    def __init__(self) -> None:
        self.incomplete: dict[int, NodeInputs] = {}
        # Per pin, the incomplete node runs that lack it, oldest first.
        self.lacking: defaultdict[str, dict[int, None]] = defaultdict(dict)
        # Of each of them, how many pins it needs that are not static; and those that need none, oldest first.
        self.due: dict[int, int] = {}
        self.only_static: dict[int, NodeInputs] = {}
        # The values of the static pins in the latest node run that became complete.
        self.latest_static: dict[str, Any] = {}


class Dataflow:
    """The state of one run of one graph.

    `masked` has by node the exact names of pins that need no value from a link; one that comes is taken all the same.
    `ran` are the nodes of which a node run was complete, `put_out` the pins by node on which a value came out.
    """

    def __init__(self, topology: Topology, masked: Mapping[str, Collection[str]] = NOTHING_MASKED) -> None:
        self._topology = topology
        self._masked = masked
        self._gathering: defaultdict[str, _Gathering] = defaultdict(_Gathering)
        self._count = 0
        self.ran: set[str] = set()
        self.put_out: defaultdict[str, set[str]] = defaultdict(set)

    def start(self) -> list[NodeInputs]:
        """The node runs that need no value from a link."""
        self.ran.update(node.id for node in self._topology.starting)
        return [self._new(node.id) for node in self._topology.starting]

    def deliver(self, node_id: str, pin: str, value: Any) -> list[NodeInputs]:
        """Send a value that `node_id` put out on `pin` along its links; returns the node runs that are complete now."""
        complete: list[NodeInputs] = []
        self.put_out[node_id].add(base(pin))
        for link in self._topology.outgoing.get((node_id, base(pin)), ()):
            part = extract(pin, value, link.source_name)
            if part is not MISSING:
                complete += self._receive(link, part)
        return complete

    def incomplete(self) -> list[tuple[NodeInputs, list[str]]]:
        """The node runs still waiting, each with the pins it lacks; known static ones only if it lacks no other."""
        return [
            (inputs, self._lacks(gathering, inputs))
            for gathering in self._gathering.values()
            for inputs in gathering.incomplete.values()
        ]

    def lacks(self, node_id: str) -> list[str]:
        """The linked pins for which the oldest incomplete node run of a node waits.

        If there is none, all that are not masked; or all, for any of them would do.
        """
        gathering = self._gathering[node_id]
        for inputs in gathering.incomplete.values():
            return self._lacks(gathering, inputs)
        pins, masked = list(self._topology.pins.get(node_id, ())), self._masked.get(node_id, ())
        return [pin for pin in pins if pin not in masked] or pins

    def _lacks(self, gathering: _Gathering, inputs: NodeInputs) -> list[str]:
        lacking = [pin for pin in self._pins(inputs.node_id) if self._needs(inputs, pin)]
        return [pin for pin in lacking if pin not in gathering.latest_static] or lacking

    def _needs(self, inputs: NodeInputs, pin: str) -> bool:
        return pin not in inputs.values and pin not in self._masked.get(inputs.node_id, ())

    def _pins(self, node_id: str) -> Mapping[str, bool]:
        return self._topology.pins[node_id]

    def _new(self, node_id: str) -> NodeInputs:
        self._count += 1
        return NodeInputs(self._count, node_id, {})

    def _receive(self, link: Link, value: Any) -> list[NodeInputs]:
        gathering = self._gathering[link.sink_id]
        inputs = self._oldest_lacking(gathering, link)
        self._fill(gathering, inputs, link.sink_name, value)
        complete = self._take_if_complete(gathering, inputs)
        if link.is_static and gathering.latest_static:
            for other in list(gathering.only_static.values()):
                complete += self._take_if_complete(gathering, other)
        return complete

    def _oldest_lacking(self, gathering: _Gathering, link: Link) -> NodeInputs:
        lacking = gathering.lacking[link.sink_name]
        if lacking:
            return gathering.incomplete[next(iter(lacking))]
        inputs = self._new(link.sink_id)
        pins = self._pins(link.sink_id)
        for pin in pins:
            gathering.lacking[pin][inputs.number] = None
        gathering.incomplete[inputs.number] = inputs
        gathering.due[inputs.number] = sum(not static and self._needs(inputs, pin) for pin, static in pins.items())
        if gathering.due[inputs.number] == 0:
            gathering.only_static[inputs.number] = inputs
        return inputs

    def _fill(self, gathering: _Gathering, inputs: NodeInputs, pin: str, value: Any) -> None:
        needed = not self._pins(inputs.node_id)[pin] and self._needs(inputs, pin)
        inputs.values[pin] = value
        del gathering.lacking[pin][inputs.number]
        if needed:
            gathering.due[inputs.number] -= 1
            if gathering.due[inputs.number] == 0:
                gathering.only_static[inputs.number] = inputs

    def _take_if_complete(self, gathering: _Gathering, inputs: NodeInputs) -> list[NodeInputs]:
        if inputs.number not in gathering.only_static:
            return []
        pins, latest = self._pins(inputs.node_id), gathering.latest_static
        if len(inputs.values) < len(pins) and any(self._needs(inputs, pin) and pin not in latest for pin in pins):
            return []
        # Not before: until it is complete, a newer value of a static pin goes to it.
        for pin, value in latest.items():
            if pin not in inputs.values:
                self._fill(gathering, inputs, pin, value)
        del gathering.incomplete[inputs.number], gathering.due[inputs.number], gathering.only_static[inputs.number]
        for pin in pins.keys() - inputs.values.keys():
            del gathering.lacking[pin][inputs.number]
        self.ran.add(inputs.node_id)
        gathering.latest_static = {pin: inputs.values[pin] for pin in pins if pins[pin] and pin in inputs.values}
        return [inputs]
