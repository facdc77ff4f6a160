"""What of a new OpenAPI document breaks clients that were written by an old one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
Found = Iterator[str]


def breaking_changes(old: Json, new: Json) -> list[str]:
    return [*Comparison(old, new).of_operations()]


class Comparison:
    """Goes through both documents side by side. Two schemas are compared once as what is sent, once as an answer."""

    def __init__(self, old: Json, new: Json) -> None:
        self._old, self._new = old, new
        self._seen: set[tuple[str, str, bool]] = set()

    def of_operations(self) -> Found:
        for path, operations in self._old["paths"].items():
            for method, old in operations.items():
                place, new = f"{method.upper()} {path}", self._new["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{place} is gone"
                else:
                    yield from self._of_operation(place, old, new)

    def _of_operation(self, place: str, old: Json, new: Json) -> Found:
        if old["operationId"] != new["operationId"]:
            yield f"{place}: its operationId, {old['operationId']}, is now {new['operationId']}"
        for each in sorted(needed(new) - needed(old)):
            yield f"{place} now needs {each}"
        yield from self._of_parameters(place, parameters(old), parameters(new))
        before, after = old.get("requestBody", {}), new.get("requestBody", {})
        if after.get("required") and not before.get("required"):
            yield f"{place}: a body is now required"
        yield from self._of_content(f"{place}: the body", before, after, sent=True)
        for status in (each for each in old["responses"] if each.startswith("2")):
            if status in new["responses"]:
                answers = (old["responses"][status], new["responses"][status])
                yield from self._of_content(f"{place}: the answer {status}", *answers, sent=False)
            else:
                yield f"{place} no longer answers {status}"

    def _of_parameters(self, place: str, old: Json, new: Json) -> Found:
        for name in old:
            if name in new:
                schemas = (old[name]["schema"], new[name]["schema"])
                yield from self._of_schemas(f"{place}: the parameter {name}", *schemas, sent=True)
            else:
                yield f"{place}: the parameter {name} is gone"
        for name in new:
            if new[name].get("required") and not old.get(name, {}).get("required"):
                yield f"{place}: the parameter {name} is now required"

    def _of_content(self, place: str, old: Json, new: Json, *, sent: bool) -> Found:
        for kind, content in old.get("content", {}).items():
            if kind in new.get("content", {}):
                schemas = (content.get("schema", {}), new["content"][kind].get("schema", {}))
                yield from self._of_schemas(place, *schemas, sent=sent)
            else:
                yield f"{place} is no longer {kind}"

    def _of_schemas(self, place: str, old: Json, new: Json, *, sent: bool) -> Found:
        pair = (old.get("$ref", ""), new.get("$ref", ""), sent)
        if any(pair[:2]) and pair in self._seen:
            return
        self._seen.add(pair)
        old, new = resolved(self._old, old), resolved(self._new, new)
        before, after = kinds(self._old, old), kinds(self._new, new)
        # Nothing may be refused that was taken, and nothing be answered that was not.
        if not (before <= after if sent else after <= before):
            yield f"{place} is now {' or '.join(sorted(after))}, not {' or '.join(sorted(before))}"
        elif choices(old) == [old] and choices(new) == [new]:
            yield from self._of_values(place, old, new, sent=sent)
        else:
            for one, other in zip(choices(old), choices(new), strict=False):
                yield from self._of_schemas(place, one, other, sent=sent)
            if sent and len(choices(new)) < len(choices(old)):
                yield f"{place} has fewer alternatives"

    def _of_values(self, place: str, old: Json, new: Json, *, sent: bool) -> Found:
        if sent and (taken := values(new)) and (lost := (values(old) or {"anything"}) - taken):
            yield f"{place} can no longer be {', '.join(sorted(lost))}"
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before:
            if name in after:
                yield from self._of_schemas(f"{place}/{name}", before[name], after[name], sent=sent)
            else:
                yield f"{place}/{name} is gone"
        was, now = set(old.get("required", ())), set(new.get("required", ()))
        for name in sorted(now - was if sent else (was - now) & after.keys()):
            yield f"{place}/{name} is {'now required' if sent else 'no longer always there'}"
        for inner in ("items", "additionalProperties"):
            if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
                yield from self._of_schemas(f"{place}[]", old[inner], new[inner], sent=sent)


def needed(operation: Json) -> set[str]:
    return {each for way in operation.get("security", ()) for each in ["a key", *next(iter(way.values()))]}


def parameters(operation: Json) -> dict[str, Json]:
    return {f"{each['name']} ({each['in']})": each for each in operation.get("parameters", ())}


def resolved(document: Json, schema: Json) -> Json:
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def choices(schema: Json) -> list[Json]:
    return [each for each in schema.get("anyOf") or schema.get("oneOf") or [schema] if each != {"type": "null"}]


def values(schema: Json) -> set[str]:
    return {str(each) for each in [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]}


def kinds(document: Json, schema: Json) -> set[str]:
    """The types of a schema."""
    each = [resolved(document, one) for one in schema.get("anyOf") or schema.get("oneOf") or ()]
    if each:
        return set[str]().union(*(kinds(document, one) for one in each))
    given = schema.get("type", ["array", "boolean", "null", "number", "integer", "object", "string"])
    return ({given} if isinstance(given, str) else {*given}) | ({"integer"} if given == "number" else set())
