"""Finds what is wrong with the structure of an agent file: in its text, its shape, and its ids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from backend.graphs.faults import MAX_FAULTS, Fault, GraphFileError, Path, fault, printable
from backend.graphs.graph import MAX_LINKS
from backend.graphs.json_types import kind_of, list_in

MAX_DEPTH = 100
MAX_NESTING = 10

# By pydantic's error type: what it expected.
_EXPECTED = {
    "list_type": "a list",
    "string_type": "text",
    "dict_type": "an object",
    "model_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of usual size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
# By what orjson says: our code. Anything else is plain `not_json`.
_JSON_CODES = {"surrogate in string": "lone_surrogate", "depth limit": "too_deep", "infinity": "number_out_of_range"}

Part = tuple[Path, dict[str, Any]]


def parse(document: bytes) -> object:
    """The JSON value in `document`; GraphFileError says line and column where there is none."""
    text = document.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise GraphFileError([_json_fault(error)]) from None


def _json_fault(error: orjson.JSONDecodeError) -> Fault:
    place = f"line {error.lineno}, column {error.colno}"
    if error.doc[error.pos :].startswith(("NaN", "Infinity")):
        return Fault("", "not_a_number", f"NaN and Infinity are not JSON ({place}): write null or a number")
    code = next((code for words, code in _JSON_CODES.items() if words in error.msg), "not_json")
    return Fault("", code, f"the file is not valid JSON: {error.msg} ({place})")


def check_depth(value: object) -> None:
    """Raise GraphFileError for what is nested too deep to be walked by recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for container in level for child in _children(container) if isinstance(child, (dict, list))]
        if not level:
            return
    raise GraphFileError([Fault("", "too_deep", f"the file is nested deeper than {MAX_DEPTH} levels")])


def _children(container: object) -> list[object]:
    if isinstance(container, dict):
        return list(cast("dict[str, object]", container).values())
    return cast("list[object]", container) if isinstance(container, list) else []


def content_faults(value: object) -> list[Fault]:
    """What no JSON document may hold, or PostgreSQL cannot keep, anywhere in the value."""
    faults: list[Fault] = []
    _scan(value, (), faults)
    return faults


def _scan(value: object, path: Path, faults: list[Fault]) -> None:
    if len(faults) >= MAX_FAULTS:
        return
    if isinstance(value, str):
        faults.extend(_text_faults(value, path))
    elif isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            at = (*path, str(key))
            faults.extend(_text_faults(key, at) if isinstance(key, str) else _foreign(key, at))
            _scan(item, at, faults)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            _scan(item, (*path, index), faults)
    elif isinstance(value, (int, float)):
        faults.extend(_number_faults(value, path))
    elif value is not None:
        faults.extend(_foreign(value, path))


def _text_faults(text: str, path: Path) -> Iterator[Fault]:
    if "\0" in text:
        yield fault(path, "null_character", "contains the character U+0000, which cannot be stored: remove it")
    if not text.isascii() and printable(text) != text:
        yield fault(path, "lone_surrogate", "contains half of a surrogate pair, which is no character")


def _number_faults(number: float, path: Path) -> Iterator[Fault]:
    if not math.isfinite(number):
        yield fault(path, "not_a_number", f"is {number}, which JSON does not know: write null or a number")
    elif isinstance(number, int) and not -(2**63) <= number < 2**64:
        yield fault(path, "number_out_of_range", "is a whole number of more than 64 bits")


def _foreign(value: object, path: Path) -> Iterator[Fault]:
    yield fault(path, "not_json", f"is a {type(value).__name__}, which JSON does not know here")


def shape_faults(error: ValidationError) -> Iterator[Fault]:
    """What pydantic found, in our words."""
    return map(_shape_fault, error.errors(include_url=False))


def _shape_fault(detail: ErrorDetails) -> Fault:
    path, context = detail["loc"], detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return fault(path[:-1], "missing", f"has no `{path[-1]}`")
        case "extra_forbidden":
            return fault(path, "unknown_key", "is not known: leave it out, or see whether it is written right")
        case "too_long":
            return fault(path, "too_many", f"has more entries than the {context['max_length']} allowed")
        case kind if kind in _EXPECTED:
            return fault(path, "wrong_type", f"has to be {_EXPECTED[kind]}, not {kind_of(detail['input'])}")
        case _:
            reason = detail["msg"]
            return fault(path, "wrong_value", f"is not allowed: {reason[:1].lower()}{reason[1:]}")


def reference_faults(file: dict[str, Any]) -> Iterator[Fault]:
    """Ids used twice and links that lead nowhere, as far as the raw file can be read."""
    graphs = list(_graphs(((), file)))
    yield from _duplicates(graphs, "graph")
    for graph in graphs:
        yield from _graph_faults(graph)


def _graphs(graph: Part) -> Iterator[Part]:
    yield graph
    for sub_graph in _parts(graph, "sub_graphs"):
        yield from _graphs(sub_graph)


def _parts(graph: Part, name: str) -> list[Part]:
    path, data = graph
    numbered = enumerate(list_in(data.get(name))[: MAX_LINKS + 1])  # of more, only that they are too many is told
    return [((*path, name, index), part) for index, part in numbered if isinstance(part, dict)]


def _graph_faults(graph: Part) -> Iterator[Fault]:
    path, data = graph
    nodes, links = _parts(graph, "nodes"), _parts(graph, "links")
    if len(path) // 2 == MAX_NESTING + 1:
        yield fault(path, "too_deep", f"is nested in more than {MAX_NESTING} graphs")
    yield from _duplicates(nodes, "node")
    yield from _duplicates(links, "link")
    if isinstance(data.get("nodes"), list):
        known = {node["id"] for _, node in nodes if isinstance(node.get("id"), str)}
        for link in links:
            yield from _loose_ends(link, known)


def _duplicates(parts: list[Part], kind: str) -> Iterator[Fault]:
    seen: set[str] = set()
    for path, part in parts:
        found: object = part.get("id")
        if isinstance(found, str):
            if found in seen:
                yield fault((*path, "id"), f"duplicate_{kind}", f"is {found[:80]!r}, as is another {kind}'s")
            seen.add(found)


def _loose_ends(link: Part, known: set[str]) -> Iterator[Fault]:
    path, data = link
    for end in ("source_id", "sink_id"):
        found: object = data.get(end)
        if isinstance(found, str) and found not in known:
            yield fault((*path, end), "unknown_node", f"is {found[:80]!r}, but no node of this graph has that id")
