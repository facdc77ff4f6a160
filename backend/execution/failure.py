"""What a failed run says of the node it failed for: which one, why, and with which input, short and without secrets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

from backend.blocks import registry
from backend.blocks.json_values import as_text, is_dict, is_list
from backend.execution.plan import Plan
from backend.graphs.exchange import is_secret
from backend.graphs.json_types import object_in
from backend.graphs.pins import base
from backend.store.runs import StoredRun

# Characters of a value, and pins, that are shown.
SHOWN_CHARACTERS = 200
SHOWN_PINS = 20

SECRET = "(secret)"


def describe(
    plan: Plan, run: StoredRun, node_id: str, node_run: int, error: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The failure as {node_id, node_run, node, error, inputs}; `inputs` is {pin: text}, `node` what people call it."""
    node, secrets = plan.nodes[node_id], _secrets(plan, run)
    spec = registry.catalogue().get(node.block.id)
    properties = object_in(spec.input_schema.get("properties")) if spec else {}
    shown = {
        _short(pin): SECRET if is_secret(base(pin), properties.get(base(pin))) else _short(_hide(value, secrets))
        for pin, value in islice(data.items(), SHOWN_PINS)
    }
    return {
        "node_id": node_id,
        "node_run": node_run,
        "node": node.title,
        "error": _hide(error, secrets),
        "inputs": shown,
    }


def _secrets(plan: Plan, run: StoredRun) -> set[str]:
    """Every text or number that came in through an input which is marked as secret, longest first to be replaced."""
    found: set[str] = set()
    for node in plan.nodes.values():
        if node.input_name is not None and node.defaults.get("secret") is True:
            _collect(run.inputs.get(node.input_name), found)
            _collect((run.input_masks or {}).get(node.id), found)
            _collect(node.defaults.get("value"), found)
    return found


def _collect(value: Any, found: set[str]) -> None:
    if is_dict(value) or is_list(value):
        for item in value.values() if is_dict(value) else value:
            _collect(item, found)
    elif value not in (None, "", True, False):
        found.add(as_text(value))


def _hide(value: Any, secrets: Collection[str]) -> Any:
    if not secrets:
        return value
    if is_dict(value):
        return {_hide(key, secrets): _hide(item, secrets) for key, item in value.items()}
    if is_list(value):
        return [_hide(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            value = value.replace(secret, SECRET)
        return value
    return SECRET if as_text(value) in secrets else value


def _short(value: Any) -> str:
    text = as_text(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"
