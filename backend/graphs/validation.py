"""What keeps a sound graph from running: problems a person can mend, each naming the node and the pin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from backend.graphs.catalogue import BlockKind, BlockSpec, Catalogue
from backend.graphs.credentials import is_credentials
from backend.graphs.faults import printable
from backend.graphs.graph import Graph, Node
from backend.graphs.interface import Interface, interface
from backend.graphs.pins import PinError, base, pin_error
from backend.graphs.schemas import has_name, input_property, named_nodes
from backend.graphs.topology import topology
from backend.graphs.values import SHOWN, mismatch

MAX_PROBLEMS = 100

# What describes an input but does not say which values it takes.
_DESCRIPTION = {"title", "description", "default", "advanced", "secret"}


class Problem(BaseModel):
    """One reason why a graph cannot run. `code` is stable; `graph_id` is given for graphs below the first."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    node_id: str | None = None
    block_id: str | None = None
    block_name: str | None = None
    pin: str | None = None
    graph_id: str | None = None


def problems(graph: Graph, catalogue: Catalogue, known_names: Mapping[str, str]) -> list[Problem]:
    """What keeps this graph, or one below it, from running: the first MAX_PROBLEMS, or none.

    `known_names` has upstream's names of blocks by id, to name those we do not have. Notes are not looked at, and of
    unknown blocks only that they are unknown is told.
    """
    found = (
        problem
        for each in graph.walk()
        for problem in _Checker(each, None if each is graph else each.id, catalogue, known_names).problems()
    )
    return list(dict.fromkeys(islice(found, MAX_PROBLEMS)))


def check_inputs(schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Problem]:
    """Why a run of the graph with this input schema cannot begin with these inputs: the first MAX_PROBLEMS reasons, or
    none."""
    return list(islice(_input_problems(schema["properties"], schema["required"], inputs), MAX_PROBLEMS))


def check_masks(graph: Graph, catalogue: Catalogue, masks: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Why a run of the graph, which can run, cannot begin with these values for its nodes, {node id: {pin: value}}."""
    nodes = {node.id: node for node in graph.nodes}
    found = (each for id, mask in masks.items() for each in _mask_problems(nodes.get(id), catalogue, id, mask))
    return list(islice(found, MAX_PROBLEMS))


def check_payloads(triggers: Iterable[Node], masks: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """The nodes that begin with what a trigger delivers, in a run to which nothing was delivered."""
    waiting = (node for node in triggers if "payload" not in {**node.input_default, **masks.get(node.id, {})})
    return [_without_payload(node) for node in islice(waiting, MAX_PROBLEMS)]


def _without_payload(node: Node) -> Problem:
    message = (
        f"The node {printable(node.id)} begins with what is delivered to a trigger of the agent, and this run has no"
        " payload: make a trigger, or give its `payload` in `nodes_input_masks`."
    )
    return Problem(code="missing_payload", message=message, node_id=printable(node.id), pin="payload")


def _mask_problems(node: Node | None, catalogue: Catalogue, node_id: str, mask: Mapping[str, Any]) -> Iterator[Problem]:
    node_id = printable(node_id)
    if node is None:
        yield Problem(code="unknown_node", message=f"The agent has no node {node_id}.", node_id=node_id)
    elif not node.settings.disabled and (spec := catalogue.get(node.block_id)):
        inputs = interface(node, spec).inputs
        for pin, value in mask.items():
            reason = None if base(pin) in inputs else "is none of its pins"
            if reason := reason or mismatch(value, inputs.get(pin, {})):
                pin = printable(pin)
                message = f"The value for `{pin}` of the node {node_id} cannot be used: it {reason}."
                yield Problem(code="invalid_value", message=message, node_id=node_id, pin=pin)


def _input_problems(known: Mapping[str, Any], required: list[str], inputs: Mapping[str, Any]) -> Iterator[Problem]:
    for name in required:
        if name not in inputs:
            yield _input_problem("missing_input", name, "is required: give it a value")
    for name, value in inputs.items():
        if name not in known:
            yield _input_problem("unknown_input", name, f"is none of this agent's: {_hint(name, known)}")
        elif (value is not None or name in required) and (reason := mismatch(value, known[name])):
            yield _input_problem("invalid_value", name, reason)


def _input_problem(code: str, name: str, reason: str) -> Problem:
    name = printable(name)
    return Problem(code=code, message=f"The input `{name}` {reason}.", pin=name)


def _hint(name: str, known: Iterable[str]) -> str:
    """What was meant by a wrong name, probably; else what there is to choose from."""
    # Bounded, because likeness takes the square of the length, and names may come from anybody.
    names = sorted(islice((each for each in known if len(each) <= SHOWN), 1000))
    if close := get_close_matches(name[:SHOWN], names, n=1):
        return f"perhaps `{close[0]}` is meant"
    listed = ", ".join(f"`{each}`" for each in names[:SHOWN]) or "none"
    return f"there is {listed}{', …' if len(names) > SHOWN else ''}"


class _Checker:
    """Finds the problems of one graph, leaving out the graphs below it."""

    def __init__(self, graph: Graph, graph_id: str | None, catalogue: Catalogue, known: Mapping[str, str]) -> None:
        self.graph = graph
        self.graph_id = graph_id
        self.catalogue = catalogue
        self.known_names = known
        self.topology = topology(graph, catalogue)
        self.interfaces: dict[str, Interface] = {}  # of the nodes that can be looked into

    def problems(self) -> Iterator[Problem]:
        if not self.topology.starting:
            message = "The agent has no node to start from: every node waits for another."
            yield Problem(code="no_starting_node", message=message, graph_id=self.graph_id)
        for node in self.graph.nodes:
            yield from self._node(node)
        for link in self.graph.links:
            yield from self._link_end(link.source_id, link.source_name, "output")
            yield from self._link_end(link.sink_id, link.sink_name, "input")
        yield from self._input_names()

    def _node(self, node: Node) -> Iterator[Problem]:
        spec = self.catalogue.get(node.block_id)
        if node.settings.disabled:
            return
        if spec is None:
            yield self._problem("unknown_block", node, None, "uses a block that this server does not have")
        elif spec.kind is not BlockKind.NOTE:
            try:
                self.interfaces[node.id] = face = interface(node, spec)
            except PinError as error:
                yield self._problem("invalid_pin", node, None, f"cannot be given its values: {error}")
            else:
                yield from self._missing(node, spec, face)
                yield from self._wrong_values(node, face)

    def _missing(self, node: Node, spec: BlockSpec, face: Interface) -> Iterator[Problem]:
        fed = {base(link.sink_name) for link in self.topology.incoming.get(node.id, ())}
        if spec.kind is BlockKind.INPUT:
            fed.discard("name")  # an input is known by its name before anything runs
        given = {pin for pin in face.values if _has_value(face, pin)}
        if spec.kind in (BlockKind.INPUT, BlockKind.OUTPUT) and not has_name(node):
            given.discard("name")
        for pin in face.required:
            if pin not in fed | given and not is_credentials(face.inputs.get(pin)):  # the run has to say which
                yield self._problem("missing_input", node, pin, f"needs `{pin}`: give it a value or link one to it")

    def _wrong_values(self, node: Node, face: Interface) -> Iterator[Problem]:
        replaced = {link.sink_name for link in self.topology.incoming.get(node.id, ())}
        for pin, value in face.values.items():
            if value is None or pin in replaced:
                continue  # null is no value: it is missing, or the block's default takes its place
            if found := mismatch(value, face.inputs.get(pin, {})):
                yield self._problem("invalid_value", node, pin, f"has a wrong value: `{pin}` {found}")

    def _link_end(self, node_id: str, pin: str, side: Literal["input", "output"]) -> Iterator[Problem]:
        node, face = self.topology.nodes[node_id], self.interfaces.get(node_id)
        if face is None:
            return
        known = face.inputs if side == "input" else face.outputs
        if base(pin) not in known:
            yield self._problem(
                "unknown_pin", node, pin, f"has no {side} `{base(pin)}` to link: {_hint(base(pin), known)}"
            )
        elif error := pin_error(pin):
            yield self._problem("invalid_pin", node, pin, f"has a link that cannot work: {error}")

    def _input_names(self) -> Iterator[Problem]:
        first: dict[str, dict[str, Any]] = {}
        for name, node, spec in named_nodes(self.graph, self.catalogue, BlockKind.INPUT):
            takes = {key: part for key, part in input_property(name, node, spec).items() if key not in _DESCRIPTION}
            if name == "credentials" or name.endswith("_credentials"):
                reason = f"is an input named `{name}`, which is reserved for credentials: rename it"
                yield self._problem("reserved_input_name", node, "name", reason)
            if first.setdefault(name, takes) != takes:
                reason = f"is a second input named `{name}` that takes other values than the first: rename one"
                yield self._problem("duplicate_input_name", node, "name", reason)

    def _problem(self, code: str, node: Node, pin: str | None, reason: str) -> Problem:
        spec = self.catalogue.get(node.block_id)
        block_name = spec.name if spec else self.known_names.get(node.block_id)
        block = block_name or f"block {node.block_id}"
        return Problem(
            code=code,
            message=f"{_label(node, block)} {reason}.",
            node_id=node.id,
            block_id=node.block_id,
            block_name=block_name,
            pin=pin,
            graph_id=self.graph_id,
        )


def _has_value(face: Interface, pin: str) -> bool:
    """Whether what the node gives the pin is a value: null is one only where it is allowed."""
    return face.values[pin] is not None or mismatch(None, face.inputs.get(pin, {})) is None


def _label(node: Node, block: str) -> str:
    return f'"{node.name[:SHOWN]}" ({block}, node {node.id})' if node.name else f"Node {node.id} ({block})"
