"""The pins of a node, as its links and its values see them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from backend.graphs.catalogue import BlockKind, BlockSpec
from backend.graphs.graph import Node
from backend.graphs.json_types import list_in, object_in
from backend.graphs.pins import merge


class Interface(NamedTuple):
    inputs: Mapping[str, Any]  # JSON Schema by pin
    required: Collection[str]
    outputs: Collection[str]
    values: Mapping[str, Any]  # what the node itself gives, by pin


def interface(node: Node, spec: BlockSpec) -> Interface:
    """The node's pins; PinError where its values have dynamic pins that do not fit.

    They are those of its block, except for a node that calls a graph: its pins are that graph's inputs and outputs, of
    which it keeps the schemas, and its values are what it passes to them.
    """
    values = merge(node.input_default)
    if spec.kind is BlockKind.AGENT:
        return _call(values)
    schema = spec.input_schema
    outputs = {*spec.output_schema["properties"], "error"}
    return Interface(schema["properties"], schema.get("required", ()), outputs, values)


def _call(values: dict[str, Any]) -> Interface:
    called, given = object_in(values.get("input_schema")), object_in(values.get("inputs"))
    inputs = {name: object_in(schema) for name, schema in object_in(called.get("properties")).items()}
    outputs = {*object_in(object_in(values.get("output_schema")).get("properties")), "error"}
    required = [name for name in list_in(called.get("required")) if isinstance(name, str)]
    identity = {"graph_id": values["graph_id"]} if "graph_id" in values else {}
    return Interface(inputs | {"graph_id": {"type": "string"}}, ["graph_id", *required], outputs, given | identity)
