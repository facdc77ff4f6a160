"""Which graphs the nodes of a graph call: those that came in the same file, and those that are elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from backend.graphs.graph import AGENT_EXECUTOR, Graph, Node
from backend.graphs.json_types import list_in, object_in


class Call(NamedTuple):
    """A node that calls a graph which is not among those it came with. `within` is the graph the node is in."""

    node: Node
    within: Graph
    graph_id: str
    version: object


def calls_elsewhere(graph: Graph) -> list[Call]:
    """The calls, from this graph and those below it, of graphs that are none of them."""
    included = {each.id for each in graph.walk()}
    return [
        Call(node, each, called, node.input_default.get("graph_version", 1))
        for each in graph.walk()
        for node in each.nodes
        if node.block_id == AGENT_EXECUTOR
        and not node.settings.disabled
        and isinstance(called := node.input_default.get("graph_id"), str)
        and called not in included
    ]


class _Face(NamedTuple):
    """What tells graphs apart where ids do not: the names of inputs and outputs."""

    inputs: frozenset[str]
    outputs: frozenset[str]


def with_calls_found(graph: Graph, file: dict[str, Any]) -> Graph:
    """A copy in which calls by ids that are not in the file lead to the graph in the file that is meant.

    Upstream's exports call their sub-graphs by other ids than those they have in the file. But the node says what it
    takes and gives: if that fits one sub-graph only (of several, one only in the same version), that is the one.
    """
    included = {each.id for each in graph.walk()}
    below = [(each, _face(raw)) for each, raw in zip(graph.walk(), _files(file), strict=True) if each is not graph]

    def found(node: Node) -> Node:
        called = node.input_default.get("graph_id")
        if node.block_id != AGENT_EXECUTOR or (isinstance(called, str) and called in included):
            return node
        face = _face(node.input_default)
        fitting = [each for each, other in below if face == other and any(face)]
        if len(fitting) > 1:
            fitting = [each for each in fitting if each.version == node.input_default.get("graph_version")]
        if len(fitting) != 1:
            return node
        return node.model_copy(update={"input_default": node.input_default | {"graph_id": fitting[0].id}})

    return graph.with_nodes(found) if below else graph


def _files(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of the graphs in a file, in the order of `Graph.walk`."""
    yield file
    for below in list_in(file.get("sub_graphs")):
        yield from _files(cast("dict[str, Any]", below))


def _face(described: dict[str, Any]) -> _Face:
    """The face of a graph in a file, or of what a node calls: both have the schemas."""
    schemas = [object_in(described.get(name)) for name in ("input_schema", "output_schema")]
    return _Face(*(frozenset(object_in(schema.get("properties"))) for schema in schemas))
