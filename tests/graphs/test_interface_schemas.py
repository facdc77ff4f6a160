"""What a graph takes and gives is derived from its input and output nodes."""

from __future__ import annotations

from typing import Any

from backend.graphs.schemas import derived, input_schema, output_schema
from tests.graphs.graph_samples import ADD, CATALOGUE, INPUT, OUTPUT, graph, node


def taken(**input_default: Any) -> dict[str, Any]:
    [(_, schema)] = input_schema(graph(node("i", INPUT, **input_default)), CATALOGUE)["properties"].items()
    return schema


def test_an_input_without_a_value_is_required():
    assert input_schema(graph(node("i", INPUT, name="City")), CATALOGUE) == {
        "type": "object",
        "properties": {"City": {"advanced": False, "secret": False, "title": "City"}},
        "required": ["City"],
    }


def test_an_input_with_a_value_has_a_default_even_an_empty_one():
    schema = input_schema(graph(node("i", INPUT, name="City", value="")), CATALOGUE)

    assert schema["properties"]["City"]["default"] == ""
    assert schema["required"] == []


def test_null_is_no_default():
    assert "default" not in taken(name="City", value=None, title=None, description=None)


def test_the_node_says_how_the_input_is_shown():
    assert taken(name="pin", title="PIN", description="Four digits", value="0000", secret=True, advanced=True) == {
        "title": "PIN",
        "description": "Four digits",
        "default": "0000",
        "secret": True,
        "advanced": True,
    }


def test_only_an_input_with_a_default_can_hide_among_the_advanced():
    assert taken(name="pin", advanced=True)["advanced"] is False


def test_the_type_is_that_of_the_blocks_value():
    [schema] = input_schema(graph(node("i", "number", name="n")), CATALOGUE)["properties"].values()

    assert schema["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert schema["title"] == "n"


def test_a_default_of_the_block_counts():
    schema = input_schema(graph(node("i", "toggle", name="on")), CATALOGUE)

    assert schema["properties"]["on"]["default"] is False
    assert schema["required"] == []


def test_options_are_what_may_be_chosen():
    assert taken(name="i", options=["a", "b"])["enum"] == ["a", "b"]
    assert taken(name="i", placeholder_values=["a"])["enum"] == ["a"]
    assert "enum" not in taken(name="i", placeholder_values=[], options=None)


def test_of_two_inputs_with_one_name_the_first_describes_it_and_any_without_a_value_requires_it():
    twins = graph(node("1", INPUT, name="i", value=1, title="First"), node("2", INPUT, name="i", title="Second"))
    schema = input_schema(twins, CATALOGUE)

    assert schema["properties"]["i"]["title"] == "First"
    assert schema["required"] == ["i"]


def test_every_output_is_listed_and_none_has_a_default():
    outputs = graph(
        node("o", OUTPUT, name="Sum", value=5, advanced=True, description="It"), node("p", OUTPUT, name="p")
    )

    assert output_schema(outputs, CATALOGUE) == {
        "type": "object",
        "properties": {
            "Sum": {"advanced": False, "secret": False, "title": "Sum", "description": "It"},
            "p": {"advanced": False, "secret": False, "title": "p"},
        },
        "required": ["Sum", "p"],
    }


def test_nodes_without_a_name_and_other_blocks_are_left_out():
    others = graph(node("1", INPUT), node("2", INPUT, name=""), node("3", OUTPUT, name=5), node("4", ADD, name="x"))
    found = derived(others, CATALOGUE)

    assert found["input_schema"]["properties"] == found["output_schema"]["properties"] == {}


def test_what_follows_from_a_graph_has_upstreams_names():
    assert derived(graph(), CATALOGUE).keys() == {
        "input_schema",
        "output_schema",
        "credentials_input_schema",
        "has_external_trigger",
        "has_human_in_the_loop",
        "has_sensitive_action",
        "trigger_setup_info",
    }
