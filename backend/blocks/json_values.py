"""The values that flow through pins are JSON: telling their kinds apart, comparing them and writing them as text."""

from __future__ import annotations

import json
from typing import Any, TypeGuard

import orjson


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def json_text(value: Any) -> str:
    """Write a value as compact JSON; what JSON does not know becomes text, NaN and infinities become null."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # orjson refuses whole numbers beyond 64 bits and text that is not Unicode
        return json.dumps(value, default=str)


def as_text(value: Any) -> str:
    """Text stays as it is, everything else becomes JSON."""
    return value if isinstance(value, str) else json_text(value)


def identity(value: Any) -> str:
    """A key that is equal for equal values, also for lists and dictionaries, which cannot be hashed."""
    return json.dumps(value, sort_keys=True, default=str)


def kind_of(value: Any) -> str:
    """Name the kind of a value for a sentence."""
    if value is None:
        return "nothing"
    names = {"bool": "true or false", "int": "a number", "float": "a number", "str": "text", "list": "a list"}
    kind = "a dictionary" if is_dict(value) else type(value).__name__
    return names.get(kind, kind)
