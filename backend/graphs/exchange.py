"""Agent files in and out: reads what AutoGPT exports, and writes what it and this server read."""

from __future__ import annotations

from typing import Any, cast

from pydantic import ValidationError

from backend.graphs.calls import with_calls_found
from backend.graphs.catalogue import BlockKind, Catalogue
from backend.graphs.credentials import without_secrets
from backend.graphs.faults import Fault, GraphFileError
from backend.graphs.graph import AGENT_EXECUTOR, Graph, Node, with_new_ids
from backend.graphs.json_types import kind_of, object_in
from backend.graphs.pins import base
from backend.graphs.pins import parse as parse_pin
from backend.graphs.schemas import Schema, derived, input_schema
from backend.graphs.structure import check_depth, content_faults, parse, reference_faults, shape_faults

MAX_FILE_BYTES = 16 * 1024 * 1024

# Values of a node that calls a graph: whose it was, which means nothing elsewhere; and those it gives to nodes of that
# graph, any of which may be secret.
_OWNER = {"user_id"}
_MASKS = {"nodes_input_masks"}


def read(document: object) -> Graph:
    """The graph in an agent file (its bytes, or the parsed JSON), with new ids for every graph, node and link."""
    return with_new_ids(read_with_ids(document))


def read_with_ids(document: object) -> Graph:
    """The graph in an agent file, with the ids that it has there.

    What a graph does not keep (unknown keys, copies of links in nodes, owners, webhooks) is left behind; calls of the
    graphs in the file lead to them (calls.py). Raises
    GraphFileError with all faults of the file's structure; whether the graph can run is for validation.py to say.
    """
    file = _object(document)
    faults = list(reference_faults(file))
    if not isinstance(document, bytes) or b"\\u0000" in document:
        faults = content_faults(file) + faults
    try:
        graph = Graph.model_validate(file)
    except ValidationError as error:
        raise GraphFileError([*shape_faults(error), *faults]) from None
    if faults:
        raise GraphFileError(faults)
    return with_calls_found(graph, file).with_nodes(_taken)


def _object(document: object) -> dict[str, Any]:
    if isinstance(document, bytes):
        if len(document) > MAX_FILE_BYTES:
            size = f"{len(document):,} bytes: at most {MAX_FILE_BYTES:,} (16 MiB) are allowed"
            raise GraphFileError([Fault("", "too_large", f"the file has {size}")])
        document = parse(document)
    if not isinstance(document, dict):
        raise GraphFileError([Fault("", "not_an_object", f"the file has to be a JSON object, not {kind_of(document)}")])
    file = cast("dict[str, Any]", document)
    check_depth(file)
    return file


def _taken(node: Node) -> Node:
    """The node without what may not be stored: whose it was, and keys where references to credentials belong."""
    values = without_secrets(node.input_default)
    return _without(node if values == node.input_default else _with_values(node, values), _OWNER)


def _without(node: Node, of_call: set[str]) -> Node:
    if node.block_id != AGENT_EXECUTOR or not any(base(pin) in of_call for pin in node.input_default):
        return node
    return _with_values(node, {pin: value for pin, value in node.input_default.items() if base(pin) not in of_call})


def _with_values(node: Node, values: dict[str, Any]) -> Node:
    return node.model_copy(update={"input_default": values})


def export(graph: Graph, catalogue: Catalogue) -> dict[str, Any]:
    """The agent file of a graph, ready for JSON: without secrets, with the schemas that follow from its nodes."""
    taken = {each.id: input_schema(each, catalogue)["properties"] for each in graph.walk()}
    return _written(
        graph.with_nodes(lambda node: _public(_without(node, _OWNER | _MASKS), catalogue, taken)), catalogue
    )


def _written(graph: Graph, catalogue: Catalogue) -> dict[str, Any]:
    file = graph.model_dump(exclude={"sub_graphs"})
    file["sub_graphs"] = [_written(each, catalogue) for each in graph.sub_graphs]
    return file | derived(graph, catalogue)


def _public(node: Node, catalogue: Catalogue, taken: dict[str, Schema]) -> Node:
    """The node without what only its owner may see: secret fields, credentials, the value of a secret input.

    `taken` has the inputs of the graphs in the file by their ids: what they say is secret is, whatever a call says.
    """
    spec = catalogue.get(node.block_id)
    values = _public_values(node.input_default, spec.input_schema["properties"] if spec else {})
    if spec and spec.kind is BlockKind.INPUT and values.get("secret") is True:
        values = {pin: value for pin, value in values.items() if base(pin) != "value"}
    return _with_values(node, _public_call(values, taken) if node.block_id == AGENT_EXECUTOR else values)


def _public_values(values: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {pin: value for pin, value in values.items() if not is_secret(base(pin), properties.get(base(pin)))}


def is_secret(name: str, schema: Any) -> bool:
    """Whether the values of this pin are only for their owner's eyes."""
    part = object_in(schema)
    named = name == "credentials" or name.endswith("_credentials")
    return named or part.get("secret") is True or "credentials_types" in part


def _public_call(values: dict[str, Any], taken: dict[str, Schema]) -> dict[str, Any]:
    """The values of a node that calls a graph: what it passes on, or would by default, may be secret to that graph."""
    schema = object_in(values.get("input_schema"))
    properties = object_in(schema.get("properties"))
    inputs = object_in(values.get("inputs"))
    known = [*taken.get(str(values.get("graph_id")), {}).items(), *properties.items()]
    known += [(base(pin), {}) for pin in inputs]
    secret = {name for name, part in known if is_secret(name, part)}
    shown = {name: _without_default(part) if name in secret else part for name, part in properties.items()}
    changes = {
        "input_schema": schema | ({"properties": shown} if properties else {}),
        "inputs": {pin: value for pin, value in inputs.items() if base(pin) not in secret},
    }
    return {
        pin: changes[pin] if pin in changes and isinstance(value, dict) else value
        for pin, value in values.items()
        if not secret & _named(pin)
    }


def _named(pin: str) -> set[str]:
    """What a pin may stand for in the graph that is called: itself, or what it reaches in `inputs`."""
    name, steps = parse_pin(pin)
    return {name, steps[0].key} if name == "inputs" and steps else {name}


def _without_default(schema: Any) -> dict[str, Any]:
    return {key: part for key, part in object_in(schema).items() if key != "default"}
