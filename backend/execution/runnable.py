"""Whether a stored graph can run: looked into once for each version, as a version never changes.

Only the graphs that it calls and that did not come with it are looked up each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from backend.blocks import registry
from backend.graphs.calls import Call, calls_elsewhere
from backend.graphs.faults import printable
from backend.graphs.graph import MAX_VERSION, Graph
from backend.graphs.validation import Problem, problems
from backend.store import graphs
from backend.store.connection import Queryable
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


async def missing_calls(database: Queryable, user_id: UUID, graph: Graph) -> list[Problem]:
    """The calls of graphs that this user does not have."""
    return [_missing(call, graph) for call in calls_elsewhere(graph) if not await _is_here(database, user_id, call)]


async def _is_here(database: Queryable, user_id: UUID, call: Call) -> bool:
    try:
        id = UUID(call.graph_id)
    except ValueError:
        return False
    version = call.version
    return (
        isinstance(version, int)
        and 1 <= version <= MAX_VERSION
        and await graphs.name_of(database, user_id, id, version) is not None
    )


def _missing(call: Call, graph: Graph) -> Problem:
    called = f"{printable(call.graph_id[:80])} in version {printable(str(call.version)[:20])}"
    return Problem(
        code="unknown_graph",
        message=f"Node {call.node.id} runs the agent {called}, which is not here: import it, or choose another.",
        node_id=call.node.id,
        block_id=call.node.block_id,
        block_name="AgentExecutorBlock",
        pin="graph_id",
        graph_id=None if call.within is graph else call.within.id,
    )
