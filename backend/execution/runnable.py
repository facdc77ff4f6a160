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
    calls = [(call, _called(call)) for call in calls_elsewhere(graph)]
    wanted = {called for _, called in calls if called}
    here = await graphs.kept(database, user_id, wanted) if wanted else wanted
    return [_missing(call, graph) for call, called in calls if called not in here]


def _called(call: Call) -> tuple[UUID, int] | None:
    """The graph and version that are called, if they can be any."""
    version = call.version
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= MAX_VERSION:
        return None
    try:
        return UUID(call.graph_id), version
    except ValueError:
        return None


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
