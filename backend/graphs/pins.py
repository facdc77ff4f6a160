"""Dynamic pins: names such as `values_#_city` or `result_$_0_#_id` that reach into what a pin carries.

`_#_` is the key of a dictionary, `_$_` the index of a list, `_@_` an attribute. Values are JSON, where an object is
a dictionary, so an attribute is looked up as a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

from backend.graphs.json_types import kind_of

MAX_LIST_INDEX = 10_000

_DELIMITER = re.compile(r"_([#$@])_")


class Missing(Enum):
    """The type of MISSING: there is nothing at that path. None, in contrast, is a value."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class PinError(ValueError):
    """A dynamic pin cannot be put into the value it belongs to."""


class Step(NamedTuple):
    kind: str  # "#", "$" or "@"
    key: str


@lru_cache(maxsize=4096)
def parse(pin: str) -> tuple[str, tuple[Step, ...]]:
    """The base pin and the path into its value: `a_#_b_$_0` is ("a", (("#", "b"), ("$", "0")))."""
    base_pin, *rest = _DELIMITER.split(pin)
    return base_pin, tuple(map(Step, rest[::2], rest[1::2]))


def base(pin: str) -> str:
    """The pin of the block's schema that a pin name stands for."""
    return parse(pin)[0]


def extract(pin: str, value: Any, source_name: str) -> Any:
    """What a link with this source name carries when its node emits `value` on `pin`, or MISSING: no delivery."""
    if source_name == pin:
        return value
    if not source_name.startswith(pin):
        return MISSING
    rest, steps = parse(source_name[len(pin) :])
    if rest:
        return MISSING
    for step in steps:
        value = _follow(value, step)
    return value


def _follow(value: Any, step: Step) -> Any:
    match step.kind, value:
        case "$", list():
            items, index = cast("list[Any]", value), _index(step)
            return items[index] if index is not None and index < len(items) else MISSING
        case "#" | "@", dict():
            return cast("dict[str, Any]", value).get(step.key, MISSING)
        case _:
            return MISSING


def _index(step: Step) -> int | None:
    # Nine digits: int() of a very long number is slow, and refused beyond 4,300.
    return int(step.key) if step.key.isascii() and step.key.isdecimal() and len(step.key) < 10 else None


def merge(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fold dynamic pins into the dictionary or list of their base pin; no value in `data` is changed.

    A base that is absent, null or an empty text begins as what the path needs; lists are padded with null. The
    longest paths are put in last, so a part wins over the whole. Raises PinError where a path does not fit its value.
    """
    merged = {pin: value for pin, value in data.items() if not parse(pin)[1]}
    if len(merged) == len(data):
        return merged
    own: set[int] = set()
    for pin in sorted(data.keys() - merged.keys(), key=lambda pin: (len(parse(pin)[1]), pin)):
        _put(merged, pin, data[pin], own)
    return merged


def pin_error(pin: str) -> str | None:
    """Why nothing can ever be put into this pin, whatever the values are; None when something can."""
    try:
        merge({pin: None})
    except PinError as error:
        return str(error)
    return None


def _put(merged: dict[str, Any], pin: str, value: Any, own: set[int]) -> None:
    """Set `value` at the pin's path. `own` has the ids of the containers made here: the others are copied, once."""
    container: Any = merged
    slot: str | int
    slot, steps = parse(pin)
    for step in steps:
        found = container.get(slot) if isinstance(slot, str) else container[slot]
        container[slot] = inner = _opened(found, step, pin, own)
        container, slot = inner, _slot(inner, step, pin)
    container[slot] = value


def _opened(found: Any, step: Step, pin: str, own: set[int]) -> Any:
    kind = "a list" if step.kind == "$" else "an object"
    if found is None or found == "":
        found = [] if step.kind == "$" else {}
    if kind_of(found) != kind:
        raise PinError(f"the pin `{pin}` needs {kind} to go into, and finds {kind_of(found)}")
    if id(found) in own:
        return found
    mine = found.copy()
    own.add(id(mine))
    return mine


def _slot(container: Any, step: Step, pin: str) -> str | int:
    if step.kind != "$":
        return step.key
    index = _index(step)
    if index is None or index > MAX_LIST_INDEX:
        raise PinError(f"the pin `{pin}` has the list index {step.key[:20]!r}: expected 0 to {MAX_LIST_INDEX}")
    container.extend([None] * (index + 1 - len(container)))
    return index
