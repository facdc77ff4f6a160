"""How often a run has outlived its executors: one that kills whoever takes it up is not taken up for ever."""

from __future__ import annotations

from collections.abc import Iterable

from backend.execution.plan import Plan
from backend.store.events import Event

# Executors that may die in a row over a run which finishes no node between their deaths.
MAX_DEATHS = 3
# The same, with those that wrote nothing of the run: they may have died of another one, or of this before they could.
MAX_SILENT_DEATHS = 10


def fatal(events: Iterable[Event], plan: Plan) -> str | None:
    """Why the run is not to be taken up again; None if it is.

    A node that finishes shows that the run gets on, so the count begins anew.
    """
    deaths = silent = 0
    begun = False
    at_work: dict[int, str] = {}
    for event in events:
        match event.type:
            case "node.completed" | "node.failed":
                deaths = silent = 0
                at_work.pop(event.data["node_run"], None)
            case "run.rescued":
                deaths, silent, begun = deaths + begun, silent + (not begun), False
            case "run.started" | "run.resumed":
                begun, at_work = True, {}
            case "node.started":
                at_work[event.data["node_run"]] = plan.nodes[event.data["node_id"]].title
            case _:
                pass
    if deaths < MAX_DEATHS and deaths + silent < MAX_SILENT_DEATHS:
        return None
    names = sorted(set(at_work.values()))
    where = f"the last while it worked on {', '.join(names)}" if names else "before any node had begun"
    return f"{deaths + silent} executors in a row died over this run, {where}: it is not tried again"
