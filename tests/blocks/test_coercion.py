"""What arrives at a pin is made to fit it; losses are told, and what cannot fit is named."""

from __future__ import annotations

import json
import math
import time
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.blocks.block import BlockInput, Items
from backend.blocks.clock import GetCurrentTimeBlock
from backend.blocks.coercion import InputError, coerce, prepare
from backend.blocks.io import AgentDateInputBlock
from backend.blocks.lists import AddToListBlock, GetListItemBlock
from backend.blocks.logic import CalculatorBlock, ConditionBlock
from backend.blocks.template import FillTextTemplateBlock
from backend.blocks.text import CombineTextsBlock


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


LOSSLESS = [
    (5, str, "5"),
    (True, str, "true"),
    ({"a": [1, None]}, str, '{"a":[1,null]}'),
    ("5", int, 5),
    (" 7 ", int, 7),
    ("5.0", int, 5),
    (5.0, int, 5),
    (True, int, 1),
    ("1e3", float, 1000.0),
    ("9007199254740993", int, 9007199254740993),
    ("true", bool, True),
    ("1", bool, True),
    ("False", bool, False),
    (1, bool, True),
    ("a", list, ["a"]),
    (5, list[str], ["5"]),
    ("[1, 2]", list[str], ["1", "2"]),
    ('{"a": 1}', list, ['{"a": 1}']),
    ({"a": 1}, list, [["a", 1]]),
    (["a", ["b"]], list[Items], [["a"], ["b"]]),
    ('{"a": 1}', dict, {"a": 1}),
    ("plain", dict, {"value": "plain"}),
    (5, dict, {"value": 5}),
    (["a", "b"], dict, {"0": "a", "1": "b"}),
    ({"a": 1}, dict[str, str], {"a": "1"}),
    ({1: "x"}, dict[str, Any], {"1": "x"}),
    ("5", int | None, 5),
    (None, int | None, None),
    ("5", str | int, "5"),
    (5, str | int, 5),
    ([1], str | int, "[1]"),
    ("5", Annotated[int, "seconds"], 5),
    (5, Literal["5", "6"], "5"),
    ("small", Size, "small"),
    ("anything", Any, "anything"),
    ("2026-01-01", date, "2026-01-01"),
]


@pytest.mark.parametrize(("value", "annotation", "expected"), LOSSLESS)
def test_a_value_is_converted_without_a_word_when_nothing_is_lost(value: Any, annotation: Any, expected: Any) -> None:
    losses: list[str] = []

    converted = coerce(value, annotation, losses.append)

    assert converted == expected
    assert type(converted) is type(expected)
    assert losses == []


LOSSY = [
    ("abc", int, 0, "‘abc’ is not a number, 0 is taken"),
    ("nan", float, 0.0, "‘nan’ is not a number, 0 is taken"),
    (math.inf, float, 0.0, "‘null’ is not a number, 0 is taken"),
    (10**400, float, 0.0, f"‘1{'0' * 38}…’ is not a number, 0 is taken"),
    ("99999999999999999999", int, 0, "‘99999999999999999999’ has more than 64 bits, 0 is taken"),
    (1e30, int, 0, "‘1e+30’ has more than 64 bits, 0 is taken"),
    (1.5, int, 1, "‘1.5’ is not a whole number, 1 is taken"),
    ([1, 2], int, 2, "a list is not a number, its length is taken"),
    ({"a": 1}, float, 1.0, "a dictionary is not a number, its length is taken"),
    ("yes", bool, False, "‘yes’ is neither true nor false, false is taken"),
    (7, bool, True, "a number is neither true nor false, true is taken"),
    ([], bool, False, "a list is neither true nor false, false is taken"),
]


@pytest.mark.parametrize(("value", "annotation", "expected", "loss"), LOSSY)
def test_a_loss_is_told(value: Any, annotation: Any, expected: Any, loss: str) -> None:
    losses: list[str] = []

    assert coerce(value, annotation, losses.append) == expected
    assert losses == [loss]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
simple = st.sampled_from([str, int, float, bool, list, dict, Any])
annotations = simple | simple.map(lambda item: list[item]) | simple.map(lambda item: dict[str, item])


@given(json_values, annotations)
def test_no_value_and_no_type_make_a_conversion_fail_or_differ_the_second_time(value: Any, annotation: Any) -> None:
    once = coerce(value, annotation, lambda _: None)
    losses: list[str] = []

    twice = coerce(once, annotation, losses.append)

    if annotation in (int, float):
        assert math.isfinite(once)
    assert repr(twice) == repr(once)
    assert annotation is Any or losses == []


def test_what_fits_is_taken_as_it_is_and_unknown_pins_are_left_out() -> None:
    input, warnings = prepare(ConditionBlock())({"value1": "7", "operator": "<", "value2": [1], "other": 1})

    assert input.model_dump() == {"value1": "7", "operator": "<", "value2": [1], "yes_value": None, "no_value": None}
    assert list(warnings) == []


def test_warnings_name_the_pin() -> None:
    input, warnings = prepare(CalculatorBlock())({"operation": "Add", "a": "x", "b": [1, 2], "round_result": "no"})

    assert (input.a, input.b, input.round_result) == (0, 2, False)
    assert sorted(warnings) == [
        "a: ‘x’ is not a number, 0 is taken",
        "b: a list is not a number, its length is taken",
        "round_result: ‘no’ is neither true nor false, false is taken",
    ]


def test_numbers_json_cannot_hold_do_not_get_in() -> None:
    input, warnings = prepare(CalculatorBlock())({"operation": "Add", "a": math.nan, "b": "-inf"})

    assert (input.a, input.b) == (0, 0)
    assert len(warnings) == 2


def test_null_stands_for_the_default_where_there_is_one() -> None:
    input, warnings = prepare(CombineTextsBlock())({"input": ["a"], "delimiter": None})
    assert input.delimiter == ""

    input, warnings = prepare(AddToListBlock())({"list": None, "entry": 1, "entries": None})
    assert (input.list, input.entries) == ([], [])
    assert list(warnings) == []


def test_pins_that_are_missing_or_cannot_fit_are_named_with_the_reason() -> None:
    with pytest.raises(InputError) as raised:
        prepare(CalculatorBlock())({"operation": "Sum", "a": None})

    assert raised.value.reasons == {
        "operation": "expected 'Add', 'Subtract', 'Multiply', 'Divide' or 'Power', found text",
        "a": "expected a valid number, found nothing",
        "b": "is required",
    }
    assert "b: is required" in str(raised.value)


def test_dates_and_choices_of_formats_are_read() -> None:
    assert prepare(AgentDateInputBlock())({"name": "n", "value": "2026-03-01"})[0].value == date(2026, 3, 1)

    fit = prepare(GetCurrentTimeBlock())
    as_text = json.dumps({"discriminator": "iso8601", "timezone": "UTC"})
    assert fit({"trigger": "t", "format_type": as_text})[0].format_type.discriminator == "iso8601"
    with pytest.raises(InputError, match=r"format_type: .*found a dictionary"):
        fit({"trigger": "t", "format_type": {"discriminator": "roman"}})


def test_a_whole_float_is_an_index() -> None:
    input, warnings = prepare(GetListItemBlock())({"list": "[7, 8]", "index": 1.0})
    assert (input.list, input.index, list(warnings)) == ([7, 8], 1, [])


def test_input_that_fits_costs_next_to_nothing() -> None:
    fit = prepare(FillTextTemplateBlock())
    arrived = {"values": {"name": "Ann"}, "format": "Hello {{name}}!"}

    def microseconds() -> float:
        before = time.perf_counter()
        for _ in range(1_000):
            fit(arrived)
        return (time.perf_counter() - before) * 1_000

    assert min(microseconds() for _ in range(20)) < 10


def test_every_input_builds_only_when_it_is_used() -> None:
    class Fresh(BlockInput):
        pin: int

    assert not Fresh.__pydantic_complete__
