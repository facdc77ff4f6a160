"""Whether a stored graph can run: looked into once for each version, as a version never changes."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backend.blocks import registry
from backend.graphs.graph import Graph
from backend.graphs.validation import Problem, problems
from backend.store.graphs import StoredGraph

# Graphs kept in memory.
CACHE_SIZE = 256


@dataclass(frozen=True, slots=True)
class CheckedGraph:
    """A graph, and what keeps it from running (nothing: an empty list)."""

    graph: Graph
    problems: list[Problem]


_checked: dict[tuple[UUID, int], CheckedGraph] = {}


def check(stored: StoredGraph) -> CheckedGraph:
    key = (stored.id, stored.version)
    if key not in _checked:
        if len(_checked) >= CACHE_SIZE:
            del _checked[next(iter(_checked))]
        graph = Graph.model_validate(stored.document)
        _checked[key] = CheckedGraph(graph, problems(graph, registry.catalogue(), registry.known_names()))
    return _checked[key]
