"""What a webhook is told: the same at each attempt, and enough that few receivers have to ask."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from backend.store.deliveries import TEST, Due
from backend.store.events import ENDS
from backend.store.large_values import APART

# Characters of an error.
LONGEST_ERROR = 2000

STATUSES = {
    "run.started": "RUNNING",
    "run.review": "REVIEW",
    "run.completed": "COMPLETED",
    "run.failed": "FAILED",
    "run.terminated": "TERMINATED",
}


def body(due: Due, outputs: Sequence[dict[str, Any] | None]) -> bytes:
    """The body to post; `outputs` are those of the run, of which only its end tells."""
    data = {"webhook_id": due.webhook_id} if due.event_type == TEST else _run(due, outputs)
    message = {"type": due.event_type, "timestamp": due.happened_at, "data": data}
    return orjson.dumps(message, str, orjson.OPT_UTC_Z)  # ids become text


def _run(due: Due, outputs: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    event = due.event or {}
    data: dict[str, Any] = {
        "run_id": due.run_id,
        "status": STATUSES.get(due.event_type) or event.get("status"),
        "graph_id": due.graph_id,
        "graph_version": due.graph_version,
        "parent_run_id": due.parent_run_id,
        "started_at": due.started_at,
    }
    if due.graph_id is None:
        return data | {"deleted": True}
    if due.review is not None:
        return data | {"review": due.review}
    return data | _end(event, due.started_at, due.ended_at, outputs) if due.event_type in ENDS else data


def _end(
    event: dict[str, Any], began: datetime | None, ended: datetime | None, outputs: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    failure = event.get("failure")
    shown = [output for output in outputs if output is not None and APART not in output]
    return {
        "ended_at": ended,
        "duration_seconds": (ended - began).total_seconds() if began and ended else None,
        "error": _short(event.get("error")),
        "failure": failure and {**failure, "error": _short(failure["error"])},
        "outputs": _by_name(shown),
        "outputs_complete": len(shown) == len(outputs),
    }


def _by_name(outputs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for output in outputs:
        found.setdefault(output["name"], []).append(output["value"])
    return found


def _short(error: str | None) -> str | None:
    return error if error is None or len(error) <= LONGEST_ERROR else error[:LONGEST_ERROR] + "…"
