"""JSON values told apart: what a file holds may be anything anywhere."""

from __future__ import annotations

from typing import Any, cast

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: Any) -> str:
    """A value's JSON type, in the words people use."""
    kind = cast("type[object]", type(value))
    return _KINDS.get(kind, kind.__name__)


def object_in(value: Any) -> dict[str, Any]:
    """The value where it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def list_in(value: Any) -> list[Any]:
    """The value where it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
