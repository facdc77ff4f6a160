"""What a run begins with that a delivery to a trigger starts.

If the agent begins with webhook nodes, they get the payload. Else it goes to the input that the trigger names; or to
the only one that the trigger leaves open; or, of several, each key of it goes to the input of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from backend.execution.runnable import CheckedGraph

Masks = dict[str, dict[str, Any]]


class Values(NamedTuple):
    inputs: dict[str, Any]
    masks: Masks


def values_for(checked: CheckedGraph, given: Mapping[str, Any], payload_input: str | None, payload: object) -> Values:
    """From what the trigger gives each time, and the payload of this one."""
    if checked.triggers:
        taken = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {"value": payload}
        return Values(dict(given), {node.id: {"payload": taken} for node in checked.triggers})
    names = checked.input_schema["properties"].keys()
    return Values({**given, **_inputs(names - given.keys(), payload_input, payload)}, {})


def _inputs(open_: set[str], payload_input: str | None, payload: object) -> dict[str, Any]:
    if payload_input is not None:
        return {payload_input: payload}
    if len(open_) == 1:
        return {open_.pop(): payload}
    if not isinstance(payload, dict):
        return {}
    return {name: value for name, value in cast("dict[str, Any]", payload).items() if name in open_}
