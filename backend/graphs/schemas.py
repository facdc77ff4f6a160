"""What a graph takes and gives, derived from its input and output nodes as JSON Schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from backend.graphs.catalogue import BlockKind, BlockSpec, Catalogue
from backend.graphs.credentials import credentials_schema
from backend.graphs.graph import Graph, Node

Schema = dict[str, Any]

# Of the value's own schema: replaced by what the node says.
_REPLACED = {"title", "description", "default", "secret", "advanced"}


def named_nodes(graph: Graph, catalogue: Catalogue, kind: BlockKind) -> Iterator[tuple[str, Node, BlockSpec]]:
    """The INPUT or OUTPUT nodes of a graph by the name they have outside, without those disabled or without one."""
    for node, spec in of_kind(graph, catalogue, kind):
        if has_name(node):
            yield node.input_default["name"], node, spec


def has_name(node: Node) -> bool:
    """Whether an input or output node has a name it can be called by outside."""
    name = node.input_default.get("name")
    return isinstance(name, str) and name != ""


def input_schema(graph: Graph, catalogue: Catalogue) -> Schema:
    """What a run of the graph takes. Of two input nodes with one name the first describes it.

    A name is required when any node of it has no value of its own: nothing else could give that node one.
    """
    properties: dict[str, Schema] = {}
    required: dict[str, None] = {}
    for name, node, spec in named_nodes(graph, catalogue, BlockKind.INPUT):
        value_schema = input_property(name, node, spec)
        properties.setdefault(name, value_schema)
        if "default" not in value_schema:
            required[name] = None
    return _object(properties, list(required))


def output_schema(graph: Graph, catalogue: Catalogue) -> Schema:
    """What a run of the graph gives."""
    properties: dict[str, Schema] = {}
    for name, node, spec in named_nodes(graph, catalogue, BlockKind.OUTPUT):
        properties.setdefault(name, _property(name, node, spec) | {"advanced": False})
    return _object(properties, list(properties))


def of_kind(graph: Graph, catalogue: Catalogue, kind: BlockKind) -> Iterator[tuple[Node, BlockSpec]]:
    """The nodes whose block is of a kind, without those disabled."""
    for node in graph.nodes:
        spec = catalogue.get(node.block_id)
        if spec and spec.kind is kind and not node.settings.disabled:
            yield node, spec


def input_property(name: str, node: Node, spec: BlockSpec) -> Schema:
    """The schema of one input: that of the block's `value` field, with what the node says of it."""
    schema = _property(name, node, spec)
    options = node.input_default.get("options") or node.input_default.get("placeholder_values")
    if isinstance(options, list) and options:
        schema["enum"] = options
    default = _setting(node, spec, "value")
    if default is None:
        return schema | {"advanced": False}
    return schema | {"default": default, "advanced": _setting(node, spec, "advanced") is True}


def _property(name: str, node: Node, spec: BlockSpec) -> Schema:
    value = spec.input_schema["properties"].get("value", {})
    schema = {key: part for key, part in value.items() if key not in _REPLACED}
    schema["secret"] = _setting(node, spec, "secret") is True
    schema["title"] = _setting(node, spec, "title") or name
    if description := _setting(node, spec, "description"):
        schema["description"] = description
    return schema


def _setting(node: Node, spec: BlockSpec, field: str) -> Any:
    """What the node says of the field, else what the block says."""
    declared = spec.input_schema["properties"].get(field, {}).get("default")
    return node.input_default.get(field, declared)


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required}


def derived(graph: Graph, catalogue: Catalogue) -> Schema:
    """Every part of an agent file that follows from the others."""
    trigger = next((spec for _, spec in of_kind(graph, catalogue, BlockKind.TRIGGER)), None)
    return {
        "input_schema": input_schema(graph, catalogue),
        "output_schema": output_schema(graph, catalogue),
        "credentials_input_schema": credentials_schema(graph, catalogue),
        "has_external_trigger": trigger is not None,
        "has_human_in_the_loop": any(of_kind(graph, catalogue, BlockKind.REVIEW)),
        "has_sensitive_action": False,
        "trigger_setup_info": trigger and _trigger_setup(trigger),
    }


def _trigger_setup(spec: BlockSpec) -> Schema:
    """What is to be known to make a trigger: its node takes the payload of each delivery by itself."""
    asked = {name: schema for name, schema in spec.input_schema["properties"].items() if name != "payload"}
    return {"provider": "generic_webhook", "config_schema": _object(asked, []), "credentials_input_name": None}
