"""Whether a value can serve where a JSON Schema is expected, given that the engine coerces what can be coerced.

Almost anything becomes text, a list or a dictionary. What is told here is what no coercion can mend: an option that is
not one, a number that is none, a bound that is broken, null where there has to be something.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from backend.graphs.json_types import kind_of, list_in, object_in

Schema = Mapping[str, Any]

_WORDS_FOR_BOOL = {"true", "false", "1", "0", ""}
SHOWN = 60  # characters of a value or name, entries of a list


def mismatch(value: Any, schema: Schema) -> str | None:
    """What is wrong with the value, as the end of a sentence ("has to be a number, not text"); None if nothing is.

    A schema may come from a file: what is no JSON Schema in it is passed over.
    """
    return next(_mismatches(value, schema), None)


def _mismatches(value: Any, schema: Schema) -> Iterator[str]:
    if options := list_in(schema.get("enum")):
        yield from _enum(value, options, schema)
    if branches := list_in(schema.get("anyOf")) or list_in(schema.get("oneOf")):
        found = [mismatch(value, object_in(branch)) for branch in branches]
        if None not in found:
            yield str(found[0])
    elif check := _CHECKS.get(str(schema.get("type"))):
        yield from check(value, schema)


def _enum(value: Any, options: list[Any], schema: Schema) -> Iterator[str]:
    if _text(value) not in map(_text, options):
        listed = ", ".join(_text(option)[:SHOWN] for option in options[:SHOWN])
        yield f"has to be one of {listed}{', …' if len(options) > SHOWN else ''}; not {_shown(value, schema)}"


def _number(value: Any, schema: Schema) -> Iterator[str]:
    whole = schema["type"] == "integer"
    number = _as_number(value)
    if number is None or (whole and number != int(number)):
        yield f"has to be a {'whole ' if whole else ''}number, not {_shown(value, schema)}"
    else:
        yield from _bounds(number, schema)


def _as_number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _bounds(number: float, schema: Schema) -> Iterator[str]:
    for bound, words, broken in _BOUNDS:
        limit = schema.get(bound)
        if isinstance(limit, (int, float)) and broken(number, limit):
            yield f"has to be {words} {limit}"


def _length(length: int, schema: Schema, suffix: str, unit: str) -> Iterator[str]:
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    if isinstance(least, int) and length < least:
        yield f"has to have at least {least} {unit}, not {length}"
    if isinstance(most, int) and length > most:
        yield f"has to have at most {most} {unit}, not {length}"


def _boolean(value: Any, schema: Schema) -> Iterator[str]:
    if _text(value).strip().lower() not in _WORDS_FOR_BOOL:
        yield f"has to be true or false, not {_shown(value, schema)}"


def _string(value: Any, schema: Schema) -> Iterator[str]:
    if value is None:
        yield "has to be text, not null"
    elif isinstance(value, str):
        yield from _length(len(value), schema, "Length", "characters")


def _array(value: Any, schema: Schema) -> Iterator[str]:
    if value is None:
        yield "has to be a list, not null"
    elif isinstance(value, list):
        items, wanted = list_in(value), object_in(schema.get("items"))
        yield from _length(len(items), schema, "Items", "items")
        found = ((index, mismatch(item, wanted)) for index, item in enumerate(items) if wanted)
        yield from (f"has an item {index} that {wrong}" for index, wrong in found if wrong)


def _object(value: Any, _: Schema) -> Iterator[str]:
    if value is None:
        yield "has to be an object, not null"


def _null(value: Any, _: Schema) -> Iterator[str]:
    if value is not None:
        yield "has to be null"


_CHECKS = {
    "number": _number,
    "integer": _number,
    "boolean": _boolean,
    "string": _string,
    "array": _array,
    "object": _object,
    "null": _null,
}
_BOUNDS = (
    ("minimum", "at least", operator.lt),
    ("maximum", "at most", operator.gt),
    ("exclusiveMinimum", "greater than", operator.le),
    ("exclusiveMaximum", "less than", operator.ge),
)


def _shown(value: Any, schema: Schema) -> str:
    if schema.get("secret") is True or isinstance(value, (list, dict, NoneType)):
        return kind_of(value)
    text = _text(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return repr(text) if isinstance(value, str) else text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
