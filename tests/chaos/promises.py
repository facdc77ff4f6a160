"""What must be true of the events of every run, whatever died while it was on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.execution.deaths import MAX_DEATHS, MAX_SILENT_DEATHS
from backend.store.events import ENDS, Event

ENDS_OF_NODE = {"node.completed", "node.failed"}


def broken(events: Sequence[Event]) -> Iterator[str]:
    """Each promise that the events of a run break, with the number of the event."""
    if [event.number for event in events] != list(range(1, len(events) + 1)):
        yield f"the numbers are {[event.number for event in events]}"
    if [event.type for event in events if event.type in ENDS] != [events[-1].type]:
        yield "it does not end once, with its last event"
    reader = _Reader()
    for event in events:
        if fault := reader.fault(event):
            yield f"{event.number} {event.type}: {fault}"
        reader.take(event)


def given_up_with_reason(events: Sequence[Event]) -> bool:
    """Whether the run was not taken up again, after as many deaths in a row as that takes."""
    deaths = silent = 0
    begun = False
    for event in events:
        if event.type in ENDS_OF_NODE:
            deaths = silent = 0
        elif event.type in ("run.started", "run.resumed"):
            begun = True
        elif event.type == "run.rescued":
            deaths, silent, begun = deaths + begun, silent + (not begun), False
    enough = deaths >= MAX_DEATHS or deaths + silent >= MAX_SILENT_DEATHS
    return enough and "executors in a row died over this run" in str(events[-1].data.get("error"))


class _Reader:
    """Which node runs are at work, seen from one event to the next."""

    def __init__(self) -> None:
        self.attempt = 0
        self.owned = False
        self.at_work: set[int] = set()
        self.waits: set[int] = set()
        self.ended: set[int] = set()

    def fault(self, event: Event) -> str | None:
        number = event.data.get("node_run")
        if event.type in ("run.started", "run.resumed"):
            late = event.data["attempt"] <= self.attempt or (event.type == "run.started") == bool(self.attempt)
            return f"attempt {self.attempt} was there before" if late else None
        if number is None:
            return None
        if not self.owned:
            return "nobody owned the run"
        if number in self.ended:
            return f"node run {number} had ended"
        if event.type == "node.started":
            return f"node run {number} was at work" if number in self.at_work else None
        if number not in self.at_work | self.waits:
            return f"this attempt had not started node run {number}"
        return None

    def take(self, event: Event) -> None:
        number = event.data.get("node_run")
        match event.type:
            case "run.started" | "run.resumed":
                self.attempt, self.owned, self.at_work = event.data["attempt"], True, set()
            case "run.rescued" | "run.waiting":
                self.owned = False
            case "node.started":
                self.at_work.add(number)
            case "node.waiting":
                self.waits.add(number)
            case "node.completed" | "node.failed":
                self.ended.add(number)
            case _:
                pass
