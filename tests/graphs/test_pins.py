"""Dynamic pins reach into values and put values together, and never past what they are given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.graphs.pins import MAX_LIST_INDEX, MISSING, PinError, base, extract, merge, pin_error
from tests.graphs.graph_samples import steady

KEYS = st.text(alphabet="abc #$@_", max_size=4).filter(lambda key: "_" not in key)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(min_size=1)
STEPS = st.tuples(st.just("_#_"), KEYS) | st.tuples(st.just("_@_"), KEYS) | st.tuples(st.just("_$_"), st.integers(0, 9))
PATHS = st.lists(STEPS, max_size=4).map(lambda steps: "".join(f"{kind}{key}" for kind, key in steps))


@pytest.mark.parametrize(
    ("pin", "expected"),
    [("a", "a"), ("a_#_b", "a"), ("a_$_0_#_b", "a"), ("a_@_b", "a"), ("a_b", "a_b"), ("a_#", "a_#"), ("", "")],
)
def test_the_base_is_what_comes_before_the_first_delimiter(pin: str, expected: str):
    assert base(pin) == expected


@pytest.mark.parametrize(
    ("source_name", "expected"),
    [
        ("result", {"list": [1, None, {"k": "v"}]}),
        ("result_#_list", [1, None, {"k": "v"}]),
        ("result_@_list_$_0", 1),
        ("result_#_list_$_1", None),
        ("result_#_list_$_2_#_k", "v"),
        ("result_#_list_$_3", MISSING),
        ("result_#_list_$_-1", MISSING),
        ("result_#_list_$_x", MISSING),
        ("result_#_list_$_" + "9" * 5000, MISSING),
        ("result_#_none", MISSING),
        ("result_$_0", MISSING),
        ("result_#_list_#_0", MISSING),
        ("result_@_items", MISSING),
        ("other", MISSING),
        ("result2", MISSING),
        ("resul", MISSING),
    ],
)
def test_a_link_carries_what_is_at_its_path_or_nothing(source_name: str, expected: Any):
    assert extract("result", {"list": [1, None, {"k": "v"}]}, source_name) == expected


def test_merge_folds_dynamic_pins_into_their_base():
    data = {"values": {"a": 1}, "values_#_b": 2, "list_$_2": "c", "deep_#_x_$_1_@_y": True, "plain": None}

    assert merge(data) == {
        "values": {"a": 1, "b": 2},
        "list": [None, None, "c"],
        "deep": {"x": [None, {"y": True}]},
        "plain": None,
    }


def test_merge_changes_none_of_the_values_it_is_given():
    shared = {"inner": [{"a": 1}]}
    data = {"v": shared, "v_#_inner_$_0_#_a": 2, "v_#_inner_$_1": 3}

    assert merge(data) == {"v": {"inner": [{"a": 2}, 3]}}
    assert shared == {"inner": [{"a": 1}]}


def test_a_part_wins_over_the_whole_in_whatever_order_they_come():
    whole_first = {"v": {"a": 1, "b": 1}, "v_#_a": {"c": 2}, "v_#_a_#_d": 3}
    expected = {"v": {"a": {"c": 2, "d": 3}, "b": 1}}

    assert merge({"v_#_a_#_d": 3, "v_@_a": {"c": 2}}) == {"v": {"a": {"c": 2, "d": 3}}}
    assert merge(whole_first) == merge(dict(reversed(whole_first.items()))) == expected


@pytest.mark.parametrize("empty", [None, ""])
def test_a_base_left_empty_becomes_what_the_path_needs(empty: Any):
    assert merge({"v": empty, "v_#_a": 1}) == {"v": {"a": 1}}
    assert merge({"v": empty, "v_$_0": 1}) == {"v": [1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"v": "text", "v_#_a": 1}, "the pin `v_#_a` needs an object to go into, and finds text"),
        ({"v": [1], "v_#_a": 1}, "the pin `v_#_a` needs an object to go into, and finds a list"),
        ({"v": {}, "v_$_0": 1}, "the pin `v_$_0` needs a list to go into, and finds an object"),
        ({"v_#_a": 7, "v_#_a_$_0": 1}, "the pin `v_#_a_$_0` needs a list to go into, and finds a number"),
        ({"v_$_10001": 1}, "the pin `v_$_10001` has the list index '10001': expected 0 to 10000"),
        ({"v_$_-1": 1}, "the pin `v_$_-1` has the list index '-1': expected 0 to 10000"),
        ({"v_$_x": 1}, "the pin `v_$_x` has the list index 'x': expected 0 to 10000"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data: dict[str, Any], message: str):
    with pytest.raises(PinError) as error:
        merge(data)
    assert str(error.value) == message


def test_the_largest_list_index_is_allowed():
    assert len(merge({f"v_$_{MAX_LIST_INDEX}": 1})["v"]) == MAX_LIST_INDEX + 1


def test_a_pin_that_can_never_work_is_known_beforehand():
    assert pin_error("v_#_a_$_3") is None
    assert "99999999" in (pin_error("v_$_99999999") or "")


@steady
@given(st.dictionaries(PATHS.map("v{}".format), LEAVES, min_size=1, max_size=1))
def test_what_is_put_in_at_a_path_comes_out_of_it(data: dict[str, Any]):
    [(pin, value)] = data.items()

    assert extract("v", merge(data)["v"], pin) == value


@steady
@given(st.dictionaries(KEYS, LEAVES, min_size=1))
def test_keys_put_in_one_by_one_make_the_dictionary(entries: dict[str, Any]):
    assert merge({f"v_#_{key}": value for key, value in entries.items()}) == {"v": entries}


@steady
@given(st.lists(LEAVES, min_size=1))
def test_items_put_in_one_by_one_in_any_order_make_the_list(items: list[Any]):
    assert merge({f"v_$_{index}": item for index, item in reversed(list(enumerate(items)))}) == {"v": items}


@steady
@given(st.dictionaries(st.text(alphabet="ab_#$@01", max_size=12), LEAVES | st.lists(LEAVES), max_size=6))
def test_any_names_merge_or_are_refused(data: dict[str, Any]):
    try:
        merged = merge(data)
    except PinError:
        return
    assert merged.keys() == {base(pin) for pin in data}
