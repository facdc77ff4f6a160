"""A few blocks and short ways to build graphs and files of them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from backend.graphs.catalogue import BlockKind, BlockSpec
from backend.graphs.graph import AGENT_EXECUTOR, Graph

# Properties that hold on slow machines too, and leave no files behind.
steady = settings(deadline=None, max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow])

INPUT, OUTPUT, ADD, FILL, NOTE, STORE, VAULT = "input", "output", "add", "fill", "note", "store", "vault"


def _block(id_: str, name: str, inputs: dict[str, Any], outputs: str, required: str = "", **kind: Any) -> BlockSpec:
    return BlockSpec(
        id=id_,
        name=name,
        kind=kind.get("kind", BlockKind.STANDARD),
        static_output=kind.get("static_output", False),
        input_schema={"type": "object", "properties": inputs, "required": required.split()},
        output_schema={"type": "object", "properties": {key: {} for key in outputs.split()}},
    )


_NULLABLE_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
_FACE = {
    "name": {"type": "string"},
    "value": {"default": None, "advanced": True, "secret": False},
    "title": _NULLABLE_TEXT,
    "description": _NULLABLE_TEXT,
    "advanced": {"type": "boolean", "default": False},
    "secret": {"type": "boolean", "default": False},
}
NUMBER_VALUE = {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Value"}
TOGGLE_VALUE = {"type": "boolean", "default": False}

CATALOGUE = {
    block.id: block
    for block in [
        _block(INPUT, "AgentInputBlock", _FACE, "result", "name", kind=BlockKind.INPUT, static_output=True),
        _block(
            "number",
            "AgentNumberInputBlock",
            _FACE | {"value": NUMBER_VALUE},
            "result",
            "name",
            kind=BlockKind.INPUT,
            static_output=True,
        ),
        _block("toggle", "AgentToggleInputBlock", _FACE | {"value": TOGGLE_VALUE}, "result", kind=BlockKind.INPUT),
        _block(OUTPUT, "AgentOutputBlock", _FACE, "output", "name", kind=BlockKind.OUTPUT),
        _block(
            ADD,
            "CalculatorBlock",
            {
                "operation": {"type": "string", "enum": ["Add", "Divide"]},
                "a": {"type": "number"},
                "b": {"type": "number", "maximum": 1000},
                "round_result": {"type": "boolean", "default": False},
            },
            "result",
            "operation a b",
        ),
        _block(FILL, "FillTextBlock", {"values": {"type": "object"}, "format": {"type": "string"}}, "output", "values"),
        _block(NOTE, "NoteBlock", {"text": {"type": "string"}}, "output", "text", kind=BlockKind.NOTE),
        _block(STORE, "StoreValueBlock", {"input": {}}, "output", "input", static_output=True),
        _block(
            VAULT, "VaultBlock", {"key": {"type": "string", "secret": True}, "login": {"credentials_types": []}}, ""
        ),
        _block(AGENT_EXECUTOR, "AgentExecutorBlock", {}, "", "user_id graph_id", kind=BlockKind.AGENT),
    ]
}


def node(id_: str, block_id: str, **input_default: Any) -> dict[str, Any]:
    return {"id": id_, "block_id": block_id, "input_default": input_default}


def link(source: str, sink: str, **more: Any) -> dict[str, Any]:
    """`link("add.result", "out.value")`."""
    (source_id, source_name), (sink_id, sink_name) = source.split(".", 1), sink.split(".", 1)
    ends = {"source_id": source_id, "source_name": source_name, "sink_id": sink_id, "sink_name": sink_name}
    return {"id": f"{source}→{sink}", **ends, **more}


def file(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An agent file of nodes and links, in any order."""
    nodes = [part for part in parts if "block_id" in part]
    return {"id": "top", "nodes": nodes, "links": [part for part in parts if "source_id" in part], **more}


def graph(*parts: dict[str, Any], **more: Any) -> Graph:
    """The graph of such a file, with the ids written in it."""
    return Graph.model_validate(file(*parts, **more))


def sum_agent() -> Graph:
    """Input x + 34 gives Output y."""
    return graph(
        node("x", INPUT, name="x"),
        node("sum", ADD, operation="Add", b=34),
        node("y", OUTPUT, name="y"),
        link("x.result", "sum.a"),
        link("sum.result", "y.value"),
        name="Sum",
    )


def without_ids(graph: Graph) -> dict[str, Any]:
    """The graph as data in which each id is replaced by what it stands for: equal for graphs equal but for ids."""
    graphs = {each.id: f"graph {number}" for number, each in enumerate(graph.walk())}
    return _without_ids(graph, graphs)


def _without_ids(graph: Graph, graphs: dict[str, str]) -> dict[str, Any]:
    nodes = {node.id: f"node {number}" for number, node in enumerate(graph.nodes)}
    data = graph.model_dump()
    data["id"] = graphs[graph.id]
    for part in data["nodes"]:
        part["id"] = nodes[part["id"]]
        if part["block_id"] == AGENT_EXECUTOR and "graph_id" in part["input_default"]:
            called = part["input_default"]["graph_id"]
            part["input_default"]["graph_id"] = graphs.get(called, called)
    for part in data["links"]:
        part |= {"id": None, "source_id": nodes[part["source_id"]], "sink_id": nodes[part["sink_id"]]}
    data["sub_graphs"] = [_without_ids(each, graphs) for each in graph.sub_graphs]
    return data
