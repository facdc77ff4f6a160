"""How the nodes of a graph hang together, prepared for running it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from backend.graphs.catalogue import BlockKind, Catalogue
from backend.graphs.graph import Graph, Link, Node
from backend.graphs.pins import base


@dataclass(frozen=True, slots=True)
class Topology:
    """Look-ups into a graph. A node without links, or a pin without any, has no entry in `incoming` and `outgoing`."""

    nodes: Mapping[str, Node]
    incoming: Mapping[str, tuple[Link, ...]]  # by node id
    pins: Mapping[str, Mapping[str, bool]]  # by node id: the exact names of the linked pins, and whether one is static
    outgoing: Mapping[tuple[str, str], tuple[Link, ...]]  # by node id and base source pin
    starting: tuple[Node, ...]


def topology(graph: Graph, catalogue: Catalogue) -> Topology:
    """Links out of blocks whose output is static come back as static, whatever the file says.

    A run begins with the nodes without incoming link and with all input nodes, linked or not. Notes and nodes that are
    disabled never run: a link into one leads nowhere, and is in `incoming` alone.
    """
    nodes = {node.id: node for node in graph.nodes}
    incoming: defaultdict[str, list[Link]] = defaultdict(list)
    outgoing: defaultdict[tuple[str, str], list[Link]] = defaultdict(list)
    pins: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for given in graph.links:
        link = _effective(given, nodes[given.source_id], catalogue)
        incoming[link.sink_id].append(link)
        pins[link.sink_id][link.sink_name] = link.is_static or pins[link.sink_id].get(link.sink_name, False)
        if _kind(nodes[link.sink_id], catalogue) is not BlockKind.NOTE:
            outgoing[link.source_id, base(link.source_name)].append(link)
    return Topology(
        nodes=nodes,
        incoming={key: tuple(links) for key, links in incoming.items()},
        pins=pins,
        outgoing={key: tuple(links) for key, links in outgoing.items()},
        starting=tuple(node for node in graph.nodes if _starts(node, node.id in incoming, catalogue)),
    )


def _effective(link: Link, source: Node, catalogue: Catalogue) -> Link:
    spec = catalogue.get(source.block_id)
    return link.model_copy(update={"is_static": True}) if spec and spec.static_output else link


def _starts(node: Node, linked: bool, catalogue: Catalogue) -> bool:
    kind = _kind(node, catalogue)
    return kind is BlockKind.INPUT or (kind is not BlockKind.NOTE and not linked)


def _kind(node: Node, catalogue: Catalogue) -> BlockKind:
    if node.settings.disabled:
        return BlockKind.NOTE
    spec = catalogue.get(node.block_id)
    return spec.kind if spec else BlockKind.STANDARD
