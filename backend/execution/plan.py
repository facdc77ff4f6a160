"""A graph made ready to run: how its nodes hang together, and for each node its block and its fixed inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from backend.blocks import coercion, registry
from backend.blocks.block import Block
from backend.blocks.coercion import Prepared
from backend.graphs.catalogue import BlockKind
from backend.graphs.graph import Graph, Node, NodeSettings
from backend.graphs.json_types import object_in
from backend.graphs.pins import PinError, merge
from backend.graphs.topology import Topology, topology
from backend.store import graphs
from backend.store.connection import Queryable

# Plans kept by one executor.
CACHE_SIZE = 256


class CannotPlan(Exception):
    """The graph cannot be run by this executor; the message says why."""


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A node with all that is the same for each of its runs. `input_name` is set for nodes that take a run's input."""

    id: str
    title: str
    block: Block
    prepare: Callable[[dict[str, Any]], Prepared]
    defaults: Mapping[str, Any]
    input_name: str | None
    is_output: bool
    is_call: bool
    handles_error: bool
    settings: NodeSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """`nodes` has those that are not disabled."""

    graph_id: UUID
    graph_version: int
    topology: Topology
    nodes: Mapping[str, PlannedNode]


class Plans:
    """The plans of the graphs that were run lately. A version of a graph never changes, so neither does its plan."""

    def __init__(self, database: Queryable) -> None:
        self._database = database
        self._plans: dict[tuple[UUID, int], Plan] = {}

    async def get(self, graph_id: UUID, version: int) -> Plan:
        """Raises CannotPlan."""
        plan = self._plans.pop((graph_id, version), None)
        if plan is None:
            found = await graphs.documents(self._database, [(graph_id, version)])
            if not found:
                raise CannotPlan(f"version {version} of the graph {graph_id} is not there any more")
            plan = make_plan(Graph.model_validate(found[graph_id, version]), graph_id, version)
        self._plans[graph_id, version] = plan
        if len(self._plans) > CACHE_SIZE:
            del self._plans[next(iter(self._plans))]
        return plan


def make_plan(graph: Graph, graph_id: UUID, version: int) -> Plan:
    """Raises CannotPlan for a graph with a block that is not here."""
    found = topology(graph, registry.catalogue())
    enabled = [node for node in graph.nodes if not node.settings.disabled]
    return Plan(graph_id, version, found, {node.id: _planned(node, found) for node in enabled})


def _planned(node: Node, found: Topology) -> PlannedNode:
    block = registry.blocks().get(node.block_id)
    if block is None:
        name = registry.known_names().get(node.block_id, node.block_id)
        raise CannotPlan(f"the node {node.name or node.id} uses the block {name}, which this executor does not have")
    return PlannedNode(
        id=node.id,
        title=f"{node.name or block.name} ({node.id})",
        block=block,
        prepare=_prepare(block),
        defaults=_call_defaults(node) if block.kind is BlockKind.AGENT else node.input_default,
        input_name=node.input_default.get("name") if block.kind is BlockKind.INPUT else None,
        is_output=block.kind is BlockKind.OUTPUT,
        is_call=block.kind is BlockKind.AGENT,
        handles_error=(node.id, "error") in found.outgoing,
        settings=node.settings,
    )


def _call_defaults(node: Node) -> dict[str, Any]:
    """The values of a node that runs another graph, with those that nobody has to give."""
    own: dict[str, Any] = {"user_id": "", "graph_version": 1, "input_schema": {}, "output_schema": {}}
    try:
        values = {pin: value for pin, value in merge(node.input_default).items() if value is not None}
    except PinError as error:
        raise CannotPlan(f"the node {node.name or node.id} cannot be given its values: {error}") from None
    return own | values | {"inputs": object_in(values.get("inputs"))}


@cache
def _prepare(block: Block) -> Callable[[dict[str, Any]], Prepared]:
    return coercion.prepare(block)
