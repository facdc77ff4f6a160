"""Agent files come in whole, and go out without secrets so that they come in again as the same graph."""

from __future__ import annotations

import copy
from typing import Any
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from backend.graphs.exchange import export, read
from backend.graphs.graph import AGENT_EXECUTOR, Graph, with_new_ids
from tests.graphs.graph_samples import (
    ADD,
    CATALOGUE,
    INPUT,
    VAULT,
    file,
    graph,
    link,
    node,
    steady,
    sum_agent,
    without_ids,
)


def test_what_an_export_holds_is_kept():
    position = {"position": {"x": 1.5, "y": -2}, "customized_name": "Add it", "later": [None]}
    document = file(
        node("a", ADD.upper(), b=34, unknown={"kept": [1, None]}) | {"metadata": position},
        node("b", INPUT),
        link("b.result", "a.a_#_x", is_static=True),
        version=7,
        is_active=False,
        name="Sum",
        description="Adds",
        instructions="Add.",
        recommended_schedule_cron="0 9 * * 1",
        forked_from_id="elsewhere",
        forked_from_version=3,
    )
    found = read(orjson.dumps(document))
    first, second = found.nodes

    assert (first.block_id, first.input_default, first.metadata) == (
        ADD,
        {"b": 34, "unknown": {"kept": [1, None]}},
        position,
    )
    assert first.name == "Add it"
    assert second.name is None
    [joined] = found.links
    assert (joined.source_id, joined.source_name, joined.sink_id, joined.sink_name, joined.is_static) == (
        second.id,
        "result",
        first.id,
        "a_#_x",
        True,
    )
    kept = found.model_dump(exclude={"id", "nodes", "links"})
    assert kept == {key: document[key] for key in kept if key != "sub_graphs"} | {"sub_graphs": []}


def test_every_id_is_new_and_a_uuid():
    document = file(
        node("a", ADD), node("b", ADD), link("a.result", "b.a"), sub_graphs=[file(node("a", ADD)) | {"id": "s"}]
    )
    one, other = read(document), read(document)

    def ids(found: Graph) -> list[str]:
        return [part.id for each in found.walk() for part in (each, *each.nodes, *each.links)]

    assert len(set(ids(one) + ids(other))) == 2 * (2 + 3 + 1)
    assert all(str(UUID(id_)) == id_ for id_ in ids(one))


def caller(graph_id: str, inputs: list[str], outputs: list[str], version: int = 1) -> dict[str, Any]:
    return node("c", AGENT_EXECUTOR, graph_id=graph_id, graph_version=version, **schemas(inputs, outputs))


def schemas(inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "input_schema": {"properties": {name: {} for name in inputs}},
        "output_schema": {"properties": {name: {} for name in outputs}},
    }


def sub_graph(id: str, inputs: list[str], outputs: list[str], version: int = 1) -> dict[str, Any]:
    return file(node("n", ADD), id=id, name=id, version=version) | schemas(inputs, outputs)


def called(document: dict[str, Any]) -> str | None:
    """The name of the graph in the file that its first node calls."""
    found = read(document)
    target = found.nodes[0].input_default["graph_id"], found.nodes[0].input_default["graph_version"]
    return {(each.id, each.version): each.name for each in found.walk()}.get(target)


def test_a_call_by_a_wrong_id_leads_to_the_one_graph_in_the_file_that_takes_and_gives_the_same():
    below = [sub_graph("mail", ["to", "text"], ["status"], 6), sub_graph("image", ["query"], ["url"], 21)]
    assert called(file(caller("lost", ["text", "to"], ["status"], 6), sub_graphs=below)) == "mail"
    assert called(file(caller("lost", ["query"], ["url"], 20), sub_graphs=below)) == "image"
    assert called(file(caller("lost", ["query"], ["status"]), sub_graphs=below)) is None


def test_of_graphs_that_look_alike_a_call_by_a_wrong_id_leads_to_that_in_its_version_or_nowhere():
    below = [sub_graph("old", ["x"], ["y"], 1), sub_graph("new", ["x"], ["y"], 2)]
    assert called(file(caller("lost", ["x"], ["y"], 2), sub_graphs=below)) == "new"
    assert called(file(caller("lost", ["x"], ["y"], 3), sub_graphs=below)) is None
    assert called(file(caller("old", ["x"], ["y"], 2), sub_graphs=below)) == "old"


def test_a_call_follows_its_graph_when_that_is_in_the_file_and_is_kept_when_not():
    inner = file(node("again", AGENT_EXECUTOR, graph_id="top")) | {"id": "sub", "version": 6}
    document = file(
        node("inside", AGENT_EXECUTOR, graph_id="sub", graph_version=4),
        node("outside", AGENT_EXECUTOR, graph_id="another"),
        node("no call", ADD, graph_id="sub"),
        sub_graphs=[inner],
    )
    found = read(document)

    assert [each.input_default["graph_id"] for each in found.nodes] == [found.sub_graphs[0].id, "another", "sub"]
    assert found.nodes[0].input_default["graph_version"] == 6, "the version that is in the file"
    assert found.sub_graphs[0].nodes[0].input_default["graph_id"] == found.id


def test_what_is_missing_null_or_of_another_time_is_harmless():
    old = {
        "nodes": [
            {"id": "a", "block_id": ADD, "input_default": None, "metadata": None, "webhook": {}, "input_links": [{}]}
        ],
        "links": [{"source_id": "a", "sink_id": "a", "source_name": "result", "sink_name": "a"}],
        "subgraphs": {},
        "is_template": False,
        "templates": [],
    }
    nulls = dict.fromkeys(("id", "name", "description", "version", "is_active", "sub_graphs", "instructions"))

    for document in (old, old | nulls):
        found = read(document)
        assert (found.version, found.is_active, found.name, found.description) == (1, True, "", "")
        assert (found.nodes[0].input_default, found.nodes[0].metadata) == ({}, {})
        assert found.links[0].id
        assert not found.links[0].is_static


def test_owners_do_not_come_along():
    calls = node("a", AGENT_EXECUTOR, graph_id="g", user_id="somebody")

    assert read(file(calls, user_id="somebody")).nodes[0].input_default == {"graph_id": "g"}


def test_values_for_nodes_of_a_called_graph_follow_their_new_ids_and_are_not_exported():
    masks = {"inner": {"a": 1}, "nobody": {"a": 2}}
    below = file(node("inner", ADD), id="below")
    graph = read(file(node("a", AGENT_EXECUTOR, graph_id="below", nodes_input_masks=masks), sub_graphs=[below]))

    assert graph.nodes[0].input_default["nodes_input_masks"] == {graph.sub_graphs[0].nodes[0].id: {"a": 1}}
    assert "nodes_input_masks" not in export(graph, CATALOGUE)["nodes"][0]["input_default"]


def test_a_byte_order_mark_is_no_fault():
    assert read(b"\xef\xbb\xbf" + orjson.dumps(file())).nodes == []


def test_reading_does_not_change_the_document():
    document = file(node("a", AGENT_EXECUTOR, graph_id="top", user_id="u"))
    before = copy.deepcopy(document)
    read(document)

    assert document == before


def test_an_export_has_the_parts_of_an_agent_file():
    found = export(sum_agent(), CATALOGUE)

    assert found["nodes"][1] == {
        "id": "sum",
        "block_id": ADD,
        "input_default": {"operation": "Add", "b": 34},
        "metadata": {},
    }
    assert found["input_schema"]["required"] == ["x"]
    assert found["output_schema"]["required"] == ["y"]
    assert found["trigger_setup_info"] is None
    assert orjson.dumps(found)


def test_sub_graphs_are_exported_with_their_own_schemas():
    found = export(graph(sub_graphs=[sum_agent().model_dump() | {"id": "s"}]), CATALOGUE)

    assert found["input_schema"]["properties"] == {}
    assert found["sub_graphs"][0]["input_schema"]["required"] == ["x"]


def test_an_export_holds_no_secret_and_the_graph_keeps_it():
    schema = {"properties": {"token": {"secret": True, "default": "s3"}, "city": {"default": "Bonn"}}}
    inputs = {"token": "s4", "city": "Rome"}
    secrets = graph(
        node("v", VAULT, key="s1", login={"id": "s2"}, **{"key_#_x": "s5", "aws_credentials": "s6", "open": "yes"}),
        node("i", INPUT, name="pin", value="s7", secret=True, **{"value_#_x": "s7"}),
        node("c", AGENT_EXECUTOR, graph_id="g", user_id="s8", input_schema=schema, inputs=inputs),
        node("u", "unknown block", credentials={"id": "s9"}, text="kept"),
        sub_graphs=[{"id": "s", "nodes": [node("v", VAULT, key="s0")]}],
    )
    found = export(secrets, CATALOGUE)
    vault, pin, call, unknown = (each["input_default"] for each in found["nodes"])

    assert vault == {"open": "yes"}
    assert pin == {"name": "pin", "secret": True}
    assert call == {
        "graph_id": "g",
        "input_schema": {"properties": {"token": {"secret": True}, "city": {"default": "Bonn"}}},
        "inputs": {"city": "Rome"},
    }
    assert unknown == {"text": "kept"}
    assert found["sub_graphs"][0]["nodes"][0]["input_default"] == {}
    assert secrets.nodes[0].input_default["key"] == "s1"


def test_what_a_call_passes_to_a_secret_input_is_not_in_an_export_however_it_is_written():
    below = {"id": "s", "nodes": [node("pin", INPUT, name="pin", secret=True, value="s0")]}
    schema = {"properties": {"pin": {"default": "s1"}, "city": {}}}
    passed = {"pin": "s2", "pin_#_x": "s3", "my_credentials": "s4", "city": "Bonn"}
    ways = {"inputs_#_pin": "s5", "inputs_#_pin_#_x": "s6", "pin": "s7", "nodes_input_masks_#_pin": {"value": "s8"}}
    call = node(
        "c", AGENT_EXECUTOR, graph_id="s", input_schema=schema, inputs=passed, **ways, **{"inputs_#_city": "Rome"}
    )
    found = export(graph(call, sub_graphs=[below]), CATALOGUE)
    assert found["nodes"][0]["input_default"] == {
        "graph_id": "s",
        "input_schema": {"properties": {"pin": {}, "city": {}}},
        "inputs": {"city": "Bonn"},
        "inputs_#_city": "Rome",
    }
    assert found["sub_graphs"][0]["nodes"][0]["input_default"] == {"name": "pin", "secret": True}


KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8).filter(
    lambda key: "credentials" not in key
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=3)


@st.composite
def graphs(draw: st.DrawFn, levels: int = 1) -> dict[str, Any]:
    names = draw(st.lists(KEYS, unique=True, max_size=4))
    blocks = st.sampled_from([ADD, INPUT, AGENT_EXECUTOR, "unknown block"])
    nodes = [
        {"id": name, "block_id": draw(blocks), "input_default": draw(OBJECTS), "metadata": draw(OBJECTS)}
        for name in names
    ]
    ends = st.sampled_from(names or [""])
    parts = {"source_id": ends, "sink_id": ends, "source_name": KEYS, "sink_name": KEYS, "is_static": st.booleans()}
    below = draw(st.lists(graphs(levels - 1), max_size=2)) if levels else []
    return {
        "nodes": nodes,
        "links": draw(st.lists(st.fixed_dictionaries(parts), max_size=4 if names else 0)),
        "name": draw(KEYS),
        "description": draw(KEYS),
        "version": draw(st.integers(1, 2**31 - 1)),
        "sub_graphs": below,
    }


@steady
@given(graphs())
def test_an_exported_graph_comes_in_again_as_the_same(document: dict[str, Any]):
    found = read(orjson.dumps(document))

    assert without_ids(read(orjson.dumps(export(found, CATALOGUE)))) == without_ids(found)


@steady
@given(graphs())
def test_a_graph_survives_being_stored_as_json(document: dict[str, Any]):
    found = read(document)

    assert Graph.model_validate_json(found.model_dump_json()) == found


def test_a_copy_is_the_same_with_other_ids():
    original = sum_agent()
    twin = with_new_ids(original)

    assert without_ids(twin) == without_ids(original)
    assert not {part.id for part in twin.nodes} & {part.id for part in original.nodes}
