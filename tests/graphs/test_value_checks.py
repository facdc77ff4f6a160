"""Only what no coercion can mend is told, in words, and without showing a secret."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.graphs.values import mismatch
from tests.graphs.graph_samples import steady

NUMBER = {"type": "number"}
WHOLE = {"type": "integer"}
FLAG = {"type": "boolean"}
TEXT = {"type": "string"}
LIST = {"type": "array", "items": NUMBER}
MAYBE_WHOLE = {"anyOf": [WHOLE, {"type": "null"}]}
CHOICE = {"type": "string", "enum": ["Add", "1", "true"]}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1, NUMBER), ("1.5", NUMBER), (" 2 ", NUMBER), (True, NUMBER),
        (3.0, WHOLE), ("7", WHOLE), (None, MAYBE_WHOLE),
        (True, FLAG), ("True", FLAG), ("", FLAG), (0, FLAG),
        ("", TEXT), (5, TEXT), ({"a": 1}, TEXT),
        ([1, "2"], LIST), ("anything", LIST), ({"a": 1}, LIST), (4, LIST),
        ("text", {"type": "object"}), ([1], {"type": "object"}),
        ("Add", CHOICE), (1, CHOICE), (True, CHOICE),
        (None, {}), ({"any": "thing"}, {}),
    ],
)  # fmt: skip
def test_what_fits_or_can_be_coerced_passes(value: Any, schema: dict[str, Any]):
    assert mismatch(value, schema) is None


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("abc", NUMBER, "has to be a number, not 'abc'"),
        ("nan", NUMBER, "has to be a number, not 'nan'"),
        (math.inf, NUMBER, "has to be a number, not Infinity"),
        ("1e999", NUMBER, "has to be a number, not '1e999'"),
        (10**400, NUMBER, f"has to be a number, not 1{'0' * 59}…"),
        ([], NUMBER, "has to be a number, not a list"),
        (None, NUMBER, "has to be a number, not null"),
        (1.5, WHOLE, "has to be a whole number, not 1.5"),
        ("abc", MAYBE_WHOLE, "has to be a whole number, not 'abc'"),
        ("yes", FLAG, "has to be true or false, not 'yes'"),
        (2, FLAG, "has to be true or false, not 2"),
        (None, TEXT, "has to be text, not null"),
        (None, LIST, "has to be a list, not null"),
        (None, {"type": "object"}, "has to be an object, not null"),
        (1, {"type": "null"}, "has to be null"),
        ([1, "x"], LIST, "has an item 1 that has to be a number, not 'x'"),
        ("Mul", CHOICE, "has to be one of Add, 1, true; not 'Mul'"),
        (0, {"type": "number", "minimum": 1}, "has to be at least 1"),
        (3, {"type": "number", "maximum": 2}, "has to be at most 2"),
        (1, {"type": "number", "exclusiveMinimum": 1}, "has to be greater than 1"),
        (2, {"type": "number", "exclusiveMaximum": 2}, "has to be less than 2"),
        ("ab", {"type": "string", "minLength": 3}, "has to have at least 3 characters, not 2"),
        ("abcd", {"type": "string", "maxLength": 3}, "has to have at most 3 characters, not 4"),
        ([], {"type": "array", "minItems": 1}, "has to have at least 1 items, not 0"),
    ],
)  # fmt: skip
def test_what_no_coercion_mends_is_told(value: Any, schema: dict[str, Any], expected: str):
    assert mismatch(value, schema) == expected


def test_a_secret_value_is_not_shown():
    assert mismatch("hunter2", {"type": "number", "secret": True}) == "has to be a number, not text"


def test_long_values_and_lists_are_shortened():
    message = mismatch("x" * 1000, {"enum": [str(number) * 100 for number in range(1000)]})

    assert message
    assert len(message) < 4500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["number", "integer", "boolean", "string", "array", "object", "null", "nonsense"])
KEYWORDS = ["enum", "anyOf", "oneOf", "items", "minimum", "exclusiveMaximum", "maxLength", "minItems", "secret"]


@steady
@given(JSON, st.dictionaries(st.sampled_from(KEYWORDS), JSON), TYPES | JSON)
def test_a_schema_that_is_none_breaks_nothing(value: Any, schema: dict[str, Any], kind: Any):
    message = mismatch(value, {**schema, "type": kind})

    assert message is None or message.startswith("has ")
