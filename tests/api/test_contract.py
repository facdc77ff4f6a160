"""docs/openapi.json is the contract with clients: it says what the code does, shows it, and breaks nothing released."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest

from backend.api.webhook_messages import MESSAGES
from backend.contract import CURRENT, RELEASED, contract
from backend.execution.webhook_message import body
from backend.store.deliveries import Due
from tests.api.breaking import breaking_changes

Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    return json.loads(contract())


def operations(document: Json) -> list[Json]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_the_document_in_docs_is_that_of_the_code(document: Json):
    assert json.loads(CURRENT.read_text("utf-8")) == document, "type `invoke openapi` (python -m backend.contract)"


def test_what_was_released_is_not_broken(document: Json):
    broken = breaking_changes(json.loads(RELEASED.read_text("utf-8")), document)
    assert not broken, (
        "This breaks clients that were written by the released contract. Add instead of changing; if it has to be, say"
        " so in the changelog and type `invoke openapi --release`:\n" + "\n".join(broken)
    )


def test_every_body_has_an_example_that_keeps_to_its_schema(document: Json):
    for operation in [*operations(document), *(path["post"] for path in document["webhooks"].values())]:
        answers = [answer for status, answer in operation["responses"].items() if status < "3"]
        for part in [operation.get("requestBody", {}), *answers]:
            for content in part.get("content", {}).values():
                place, example = operation["operationId"], content["example"]
                assert example or example == [], place
                assert '""' not in json.dumps(example), f"{place}: a field without an example (backend/api/examples.py)"
                schema = {**content.get("schema", {}), "components": document["components"]}
                jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(example)


def test_every_operation_says_who_may_call_it(document: Json):
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    schemes = document["components"]["securitySchemes"]
    assert all(scheme["description"] for scheme in schemes.values())
    for operation in operations(document):
        assert set(operation["tags"]) <= tags
        ways = operation["security"]
        assert not ways or [*map(next, map(iter, ways))] == [*schemes]
        for permission in {each for way in ways for names in way.values() for each in names}:
            assert f"`{permission}`" in operation["description"]
    public = [operation["operationId"] for operation in operations(document) if not operation["security"]]
    assert public == ["get_shared_run", "deliver_to_trigger", "livez", "readyz"]


def test_names_of_schemas_say_nothing_of_modules(document: Json):
    assert not [name for name in document["components"]["schemas"] if "__" in name]


AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAILURE = {"node_id": "a", "node_run": 1, "node": "A (a)", "error": "no", "inputs": {}}
REVIEW = {"node_exec_id": str(uuid4()), "node_id": "a", "instructions": "?", "editable": True, "payload": 5}


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("event_type", MESSAGES)
def test_what_the_notifier_sends_is_described(event_type: str, deleted: bool):
    known = (None, None, None, None, None, None) if deleted else (uuid4(), 1, None, AT, AT, "request")
    event = None if deleted or event_type == "run.review" else {"status": "QUEUED", "failure": FAILURE}
    review = REVIEW if event_type == "run.review" and not deleted else None
    due = Due(uuid4(), uuid4(), uuid4(), event_type, uuid4(), 1, AT, True, "", b"", None, AT, event, review, *known)
    outputs = [{"name": "a", "value": 1}]

    told = MESSAGES[event_type].model_validate_json(body(due, outputs), extra="forbid")

    assert told.model_dump()["type"] == event_type


TINY: Json = {
    "paths": {
        "/things": {
            "post": {
                "operationId": "make",
                "security": [{"ApiKey": ["MAKE"]}],
                "parameters": [{"name": "wait", "in": "query", "schema": {"type": "integer"}}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/New"}}}},
                "responses": {
                    "201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}}
                },
            }
        }
    },
    "components": {
        "schemas": {
            "New": {
                "properties": {
                    "kind": {"enum": ["a", "b"], "type": "string"},
                    "size": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                }
            },
            "Thing": {
                "required": ["id"],
                "properties": {"id": {"type": "string"}, "parts": {"items": {"$ref": "#/components/schemas/Thing"}}},
            },
        }
    },
}
MAKE, NEW, THING = "paths//things/post", "components/schemas/New", "components/schemas/Thing"


def changed(place: str, value: Any) -> Json:
    """The tiny document with another value at a place; None takes it away."""
    document = deepcopy(TINY)
    *way, last = place.replace("//", "/~").split("/")
    part: Any = document
    for name in way:
        part = part[int(name) if isinstance(part, list) else name.replace("~", "/")]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return document


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (MAKE, None, "POST /things is gone"),
        (f"{MAKE}/operationId", "create", "its operationId, make, is now create"),
        (f"{MAKE}/security", [{"ApiKey": ["MAKE", "ADMIN"]}], "now needs ADMIN"),
        (f"{MAKE}/parameters/0/required", True, "the parameter wait (query) is now required"),
        (f"{MAKE}/parameters/0/schema", {"type": "boolean"}, "is now boolean, not integer"),
        (f"{MAKE}/parameters", [], "the parameter wait (query) is gone"),
        (f"{MAKE}/requestBody/required", True, "a body is now required"),
        (f"{MAKE}/responses", {"200": {}}, "no longer answers 201"),
        (f"{MAKE}/responses/201/content", {"text/plain": {}}, "is no longer application/json"),
        (f"{NEW}/required", ["size"], "the body/size is now required"),
        (f"{NEW}/properties/kind/enum", ["a", "c"], "the body/kind can no longer be b"),
        (f"{NEW}/properties/size", {"type": "integer"}, "the body/size is now integer, not integer or null"),
        (f"{NEW}/properties/size", None, "the body/size is gone"),
        (f"{THING}/properties/id", None, "the answer 201/id is gone"),
        (f"{THING}/properties/id", {"type": "integer"}, "the answer 201/id is now integer, not string"),
        (f"{THING}/properties/id", {"type": ["string", "null"]}, "the answer 201/id is now null or string"),
        (f"{THING}/required", [], "the answer 201/id is no longer always there"),
    ],
)
def test_a_change_that_breaks_clients_is_found(place: str, value: Any, said: str):
    (found,) = breaking_changes(TINY, changed(place, value))
    assert said in found


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("paths//others", {"get": {}}),
        (f"{MAKE}/parameters/0/schema", {"type": "number"}),
        (f"{MAKE}/security", []),
        (f"{MAKE}/responses/202", {"description": "later"}),
        (f"{NEW}/properties/kind/enum", ["a", "b", "c"]),
        (f"{NEW}/properties/more", {"type": "string"}),
        (f"{NEW}/properties/kind", {"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]}),
        (f"{THING}/properties/more", {"type": "string"}),
        (f"{THING}/required", ["id", "parts"]),
    ],
)
def test_a_change_that_only_adds_breaks_nothing(place: str, value: Any):
    assert breaking_changes(TINY, changed(place, value)) == []
