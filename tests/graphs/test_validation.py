"""What keeps a graph from running is told, by node and pin, in a sentence; a graph that can run has no problems."""

from __future__ import annotations

from typing import Any

import pytest

from backend.graphs.graph import AGENT_EXECUTOR, Graph
from backend.graphs.schemas import input_schema
from backend.graphs.validation import MAX_PROBLEMS, Problem, check_inputs, problems
from tests.graphs.graph_samples import ADD, CATALOGUE, FILL, INPUT, NOTE, OUTPUT, STORE, graph, link, node, sum_agent

NAMES = {"known elsewhere": "GmailSendBlock"}
SUM = {"operation": "Add", "a": 1, "b": 2}


def problems_of(agent: Graph) -> list[Problem]:
    return problems(agent, CATALOGUE, NAMES)


def told(agent: Graph) -> list[tuple[str, str | None, str | None]]:
    return [(each.code, each.node_id, each.pin) for each in problems_of(agent)]


def test_a_graph_that_can_run_has_no_problems():
    assert problems_of(sum_agent()) == []


def test_blocks_we_do_not_have_are_named_where_their_name_is_known():
    first, second = problems_of(graph(node("a", "known elsewhere", x=1), node("b", "0000")))

    assert (first.code, first.node_id, first.block_id) == ("unknown_block", "a", "known elsewhere")
    assert first.block_name == "GmailSendBlock"
    assert first.message == "Node a (GmailSendBlock) uses a block that this server does not have."
    assert second.block_name is None
    assert second.message == "Node b (block 0000) uses a block that this server does not have."


def test_missing_inputs_are_told_by_node_and_name():
    [missing] = problems_of(graph(node("n", ADD, operation="Add", a=1)))

    assert missing == Problem(
        code="missing_input",
        message="Node n (CalculatorBlock) needs `b`: give it a value or link one to it.",
        node_id="n",
        block_id=ADD,
        block_name="CalculatorBlock",
        pin="b",
    )


def test_a_node_is_called_what_its_user_calls_it():
    named = node("n", ADD, operation="Add", a=1) | {"metadata": {"customized_name": "Add up"}}

    assert problems_of(graph(named))[0].message.startswith('"Add up" (CalculatorBlock, node n) needs `b`')


@pytest.mark.parametrize("values", [{"values": {}}, {"values_#_x": 1}, {"values": None, "values_#_x": 1}])
def test_a_value_or_a_part_of_it_satisfies_a_requirement(values: dict[str, Any]):
    assert told(graph(node("n", FILL, **values))) == []


def test_a_link_to_a_part_satisfies_a_requirement():
    assert told(graph(node("a", ADD, **SUM), node("n", FILL), link("a.result", "n.values_#_x"))) == []


def test_null_is_a_value_only_where_null_is_allowed():
    assert told(graph(node("n", ADD, operation="Add", a=None, b=1))) == [("missing_input", "n", "a")]
    assert told(graph(node("n", STORE, input=None))) == []


def test_null_for_what_is_not_required_leaves_it_to_the_block():
    assert told(graph(node("n", ADD, **SUM, round_result=None))) == []


def test_wrong_values_are_told():
    wrong = problems_of(graph(node("n", ADD, operation="Mod", a="x", b=1001)))

    assert {each.pin: each.code for each in wrong} == dict.fromkeys(("operation", "a", "b"), "invalid_value")
    assert "Node n (CalculatorBlock) has a wrong value: `operation` has to be one of Add, Divide; not 'Mod'." in [
        each.message for each in wrong
    ]


def test_a_wrong_value_that_a_link_replaces_does_no_harm():
    agent = graph(node("a", ADD, **SUM), node("n", ADD, operation="Add", a="x", b=1), link("a.result", "n.a"))

    assert told(agent) == []


def test_values_of_no_pin_are_the_users_own():
    assert told(graph(node("n", ADD, **SUM, later="x", placeholder_values=[]))) == []


@pytest.mark.parametrize(
    ("source", "sink", "expected"),
    [
        ("a.reslt", "b.a", ("unknown_pin", "a", "reslt", "has no output `reslt` to link: perhaps `result` is meant.")),
        ("a.b", "b.a", ("unknown_pin", "a", "b", "has no output `b` to link: there is `error`, `result`.")),
        ("a.result", "b.value", ("unknown_pin", "b", "value", "there is `a`, `b`, `operation`, `round_result`.")),
        ("a.result", "b.x_#_a", ("unknown_pin", "b", "x_#_a", "has no input `x` to link: there is `a`")),
        ("a.result", "b.a_$_99999", ("invalid_pin", "b", "a_$_99999", "list index '99999': expected 0 to 10000")),
        ("a.result_$_-1", "b.a", ("invalid_pin", "a", "result_$_-1", "list index '-1'")),
    ],
)
def test_links_to_pins_that_are_not_there_are_told(source: str, sink: str, expected: tuple[str, str, str, str]):
    [found] = problems_of(graph(node("a", ADD, **SUM), node("b", ADD, **SUM), link(source, sink)))

    assert (found.code, found.node_id, found.pin) == expected[:3]
    assert expected[3] in found.message


def test_every_block_has_an_error_output():
    assert told(graph(node("a", ADD, **SUM), node("b", STORE), link("a.error", "b.input"))) == []


def test_values_that_cannot_be_put_together_are_told():
    [found] = problems_of(graph(node("n", FILL, **{"values": "text", "values_#_x": 1})))

    assert found.code == "invalid_pin"
    assert "`values_#_x` needs an object to go into, and finds text" in found.message


def test_notes_and_unknown_blocks_are_looked_at_no_further():
    agent = graph(
        node("n", NOTE), node("u", "0000"), node("s", STORE), link("u.anything", "s.input"), link("u.x", "n.y")
    )

    assert told(agent) == [("unknown_block", "u", None)]


def test_a_graph_without_a_start_is_told():
    circle = graph(node("a", STORE), node("b", STORE), link("a.output", "b.input"), link("b.output", "a.input"))

    assert told(circle) == told(graph()) == [("no_starting_node", None, None)]


# Inputs and outputs of the graph


@pytest.mark.parametrize("block", [INPUT, OUTPUT])
@pytest.mark.parametrize("name", [{}, {"name": ""}, {"name": None}, {"name": 5}])
def test_an_input_or_output_needs_a_name(block: str, name: dict[str, Any]):
    assert told(graph(node("n", block, **name))) == [("missing_input", "n", "name")]


def test_an_input_is_named_before_anything_runs():
    agent = graph(node("a", STORE, input="x"), node("n", INPUT), node("o", OUTPUT), link("a.output", "n.name"))
    named_late = graph(node("a", STORE, input="x"), node("o", OUTPUT), link("a.output", "o.name"))

    assert ("missing_input", "n", "name") in told(agent)
    assert told(named_late) == []


@pytest.mark.parametrize("name", ["credentials", "openai_credentials"])
def test_names_of_credentials_are_reserved(name: str):
    assert told(graph(node("n", INPUT, name=name))) == [("reserved_input_name", "n", "name")]
    assert told(graph(node("n", OUTPUT, name=name))) == []


def test_two_inputs_may_share_a_name_when_they_take_the_same():
    shared = graph(node("1", "number", name="n", title="One", value=1), node("2", "number", name="n"))
    at_odds = graph(node("1", "number", name="n"), node("2", INPUT, name="n", options=["a"]))

    assert told(shared) == []
    assert told(at_odds) == [("duplicate_input_name", "2", "name")]


# Graphs that call graphs


def call(**input_default: Any) -> Graph:
    schema = {"properties": {"x": {"type": "number"}, "y": {}}, "required": ["x"]}
    outputs = {"properties": {"sum": {}}}
    given = {"graph_id": "g", "input_schema": schema, "output_schema": outputs, **input_default}
    return graph(
        node("c", AGENT_EXECUTOR, **given),
        node("s", STORE, input=1),
        link("s.output", "c.y"),
        link("c.sum", "s.input"),
        link("c.error", "s.input"),
        node("i", INPUT, name="i"),
    )


def test_a_call_has_the_pins_of_the_graph_it_calls():
    assert told(call(inputs={"x": 1})) == []
    assert told(call()) == [("missing_input", "c", "x")]
    assert told(call(inputs={"x": "one"})) == [("invalid_value", "c", "x")]
    assert told(call(inputs={"x": 1}, output_schema={})) == [("unknown_pin", "c", "sum")]
    assert told(call(inputs={"x": 1}, graph_id=None)) == [("missing_input", "c", "graph_id")]


@pytest.mark.parametrize(
    "junk", [None, 5, "x", [], {"properties": 5, "required": 7}, {"properties": {"x": 5}, "required": [5]}]
)
def test_a_call_with_a_schema_that_is_none_has_problems_but_breaks_nothing(junk: Any):
    assert ("unknown_pin", "c", "y") in told(call(input_schema=junk, inputs=junk, output_schema=junk))


def test_problems_of_graphs_below_name_their_graph():
    inner = graph(node("n", ADD, operation="Add", a=1)).model_copy(update={"id": "below"})
    outer = sum_agent().model_copy(update={"sub_graphs": [inner]})
    [found] = problems_of(outer)

    assert (found.graph_id, found.node_id, found.pin) == ("below", "n", "b")


def test_no_more_problems_are_told_than_anybody_reads():
    agent = graph(*(node(str(number), "0000") for number in range(MAX_PROBLEMS + 1)))

    assert len(problems_of(agent)) == MAX_PROBLEMS


# Inputs of a run


def check(inputs: dict[str, Any], *nodes: dict[str, Any]) -> list[tuple[str, str]]:
    agent = graph(*(nodes or [node("n", "number", name="Count"), node("t", "toggle", name="Loud")]))
    return [(each.code, each.message) for each in check_inputs(input_schema(agent, CATALOGUE), inputs)]


@pytest.mark.parametrize("inputs", [{"Count": 5}, {"Count": "5", "Loud": "true"}, {"Count": None, "Loud": None}])
def test_inputs_that_fit_are_no_problem(inputs: dict[str, Any]):
    assert check(inputs) == []


@pytest.mark.parametrize(
    ("inputs", "code", "message"),
    [
        ({}, "missing_input", "The input `Count` is required: give it a value."),
        (
            {"Count": 1, "Lout": 1},
            "unknown_input",
            "The input `Lout` is none of this agent's: perhaps `Loud` is meant.",
        ),
        ({"Count": 1, "x": 1}, "unknown_input", "The input `x` is none of this agent's: there is `Count`, `Loud`."),
        ({"Count": "abc"}, "invalid_value", "The input `Count` has to be a whole number, not 'abc'."),
        ({"Count": 1, "Loud": []}, "invalid_value", "The input `Loud` has to be true or false, not a list."),
    ],
)
def test_inputs_that_do_not_fit_are_told(inputs: dict[str, Any], code: str, message: str):
    assert check(inputs) == [(code, message)]


def test_an_agent_without_inputs_takes_none():
    message = "The input `x` is none of this agent's: there is none."

    assert check({"x": 1}, node("s", STORE, input=1)) == [("unknown_input", message)]


def test_an_option_has_to_be_one_of_those_offered():
    dropdown = node("d", INPUT, name="Size", options=["S", "M"])

    assert check({"Size": "M"}, dropdown) == []
    assert check({"Size": "L"}, dropdown) == [("invalid_value", "The input `Size` has to be one of S, M; not 'L'.")]


def test_an_unknown_name_that_cannot_be_written_is_told_all_the_same():
    assert check({"\ud800": 1}, node("s", STORE, input=1))[0][1].encode()
