"""Whether a stored graph can run, and what its runs take, which is looked into once for each version, as a version
never changes; and with which values and credentials.

Only the graphs that it calls and that did not come with it are looked up each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from backend.blocks import registry
from backend.errors import GraphNotRunnable, InvalidInputs, UnknownGraph
from backend.execution.credentials import Choice, Masks, References, look_up
from backend.graphs.calls import Call, calls_elsewhere
from backend.graphs.catalogue import BlockKind
from backend.graphs.credentials import Slot, slots
from backend.graphs.faults import printable
from backend.graphs.graph import MAX_VERSION, Graph, Node
from backend.graphs.schemas import derived, of_kind
from backend.graphs.validation import Problem, check_inputs, check_masks, check_payloads, problems
from backend.store import graphs
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph

# Graphs kept in memory.
CACHE_SIZE = 256


class CheckedGraph:
    """A graph, what keeps it from running (nothing: an empty list), and what a run of it takes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.problems: list[Problem] = problems(graph, registry.catalogue(), registry.known_names())

    @cached_property
    def derived(self) -> dict[str, Any]:
        """Every part of an agent file that follows from the others."""
        return derived(self.graph, registry.catalogue())

    @property
    def input_schema(self) -> dict[str, Any]:
        return self.derived["input_schema"]

    @cached_property
    def slots(self) -> list[Slot]:
        return slots(self.graph, registry.catalogue())

    @cached_property
    def triggers(self) -> list[Node]:
        """The nodes that begin with what a trigger delivers."""
        return [node for node, _ in of_kind(self.graph, registry.catalogue(), BlockKind.TRIGGER)]


_checked: dict[tuple[UUID, int], CheckedGraph] = {}


async def check(database: Queryable, stored: StoredGraph) -> CheckedGraph:
    return (await check_all(database, [stored]))[0]


async def check_all(database: Queryable, stored: Sequence[StoredGraph]) -> list[CheckedGraph]:
    """Raises UnknownGraph for one that was there, and is not any more."""
    keys = [(each.id, each.version) for each in stored]
    found = {key: _checked[key] for key in keys if key in _checked}
    if unknown := set(keys) - found.keys():
        new = await graphs.documents(database, unknown)
        for key in unknown:
            if key not in new:
                raise UnknownGraph(f"There is no graph {key[0]} any more.")
            found[key] = _checked[key] = CheckedGraph(Graph.model_validate(new[key]))
        for oldest in list(_checked)[: max(len(_checked) - CACHE_SIZE, 0)]:
            del _checked[oldest]
    return [found[key] for key in keys]


async def runnable(database: Queryable, stored: StoredGraph) -> CheckedGraph:
    """Raises GraphNotRunnable."""
    checked = await check(database, stored)
    await check_runnable(database, stored, checked)
    return checked


async def check_runnable(database: Queryable, stored: StoredGraph, checked: CheckedGraph) -> None:
    """Raises GraphNotRunnable."""
    _refuse(GraphNotRunnable, checked.problems or await missing_calls(database, stored.user_id, checked.graph))


def check_values(checked: CheckedGraph, inputs: dict[str, Any], masks: dict[str, dict[str, Any]]) -> None:
    """Raises InvalidInputs if no run of the graph can begin with them."""
    wrong = check_inputs(checked.input_schema, inputs) + check_masks(checked.graph, registry.catalogue(), masks)
    _refuse(InvalidInputs, wrong + check_payloads(checked.triggers, masks))


def _refuse(
    error: type[GraphNotRunnable | InvalidInputs], problems: list[Problem], errors: Sequence[Mapping[str, Any]] = ()
) -> None:
    if problems:
        shown = [problem.model_dump() for problem in problems]
        raise error(" ".join(problem.message for problem in problems), errors=errors, problems=shown)


async def chosen_credentials(
    database: Queryable,
    user_id: UUID,
    wanted: Sequence[Slot],
    given: References,
    masks: Masks,
    at: str = "/credentials",
) -> dict[str, Any] | None:
    """What is kept of the credentials with the run. Raises InvalidInputs; `at` is where the request has them."""
    choice = Choice(wanted, given, masks)
    await look_up(database, user_id, [choice])
    return kept_credentials(choice, at)


def kept_credentials(choice: Choice, at: str = "/credentials") -> dict[str, Any] | None:
    """The same for a choice that has been looked up."""
    if wrong := list(choice.problems()):
        errors = [{"pointer": f"{at}/{each.pin}", "code": each.code, "message": each.message} for each in wrong]
        _refuse(InvalidInputs, wrong, errors)
    return choice.kept() or None


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
