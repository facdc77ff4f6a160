"""The OpenAPI document: what the framework derives, with what it gets wrong put right, and what it cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from backend.api.examples import Examples
from backend.api.problem import MEDIA_TYPE
from backend.execution.webhook_message import STATUSES

SERVERS = [
    {"url": "/", "description": "the server that serves this document"},
    {"url": "http://127.0.0.1:8006", "description": "the server of `invoke dev`"},
]

TAGS = {
    "graphs": "Agents: graphs of blocks, in numbered versions.",
    "library": "The same agents, as AutoGPT's clients know them.",
    "search": "Agents and blocks, by what is said of them.",
    "runs": "Executions of agents: started, watched, stopped, run again, shared.",
    "reviews": "What runs ask people to decide.",
    "schedules": "Runs that begin at times.",
    "triggers": "Runs that begin with what other services deliver.",
    "webhooks": "Addresses of yours that are told what happens to runs.",
    "credentials": "Secrets that runs use, and nobody reads.",
    "files": "Files that runs take and make.",
    "blocks": "The kinds of work that agents are made of.",
    "access": "Who asks, and the keys with which they may.",
    "health": "What those ask who watch over the server.",
}

HOW = "Permissions are given with the key (`POST /api/v2/api-keys`)."
SCHEMES = {
    "ApiKey": {"description": f"The API key, in a header of its own. {HOW}"},
    "BearerApiKey": {"type": "http", "scheme": "bearer", "description": f"The API key, as a bearer token. {HOW}"},
}


PROBLEM = {"$ref": "#/components/schemas/ProblemDocument"}


def install(app: FastAPI, common: Mapping[int | str, Mapping[str, Any]]) -> None:
    """Make the app serve its document with the corrections of this file. `common` is what any operation may answer."""
    derive = app.openapi
    app.servers = SERVERS
    app.openapi_tags = [{"name": name, "description": description} for name, description in TAGS.items()]

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            _correct(derive(), common)
        return derive()

    app.openapi = corrected


def _correct(document: dict[str, Any], common: Mapping[int | str, Mapping[str, Any]]) -> None:
    components = document["components"]
    for name, scheme in SCHEMES.items():
        components["securitySchemes"][name] = components["securitySchemes"].get(name, {}) | scheme
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    examples = Examples(components["schemas"])
    for path in document["paths"].values():
        for operation in path.values():
            _say_who_may(operation)
            _correct_parameters(operation)
            _correct_body(operation)
            _correct_errors(operation, common)
            _show_examples(operation, examples)
    for event_type, path in document["webhooks"].items():
        _show_examples(path["post"], examples)
        message = path["post"]["requestBody"]["content"]["application/json"]["example"]
        message["type"] = event_type
        message["data"] |= {"status": STATUSES.get(event_type, "RUNNING")} if "status" in message["data"] else {}


def _say_who_may(operation: dict[str, Any]) -> None:
    """Every operation says who may call it: in words, too, as few tools show what a key has to be allowed."""
    needed = [permission for each in operation.setdefault("security", []) for permission in each["ApiKey"]]
    operation["security"] += [{"BearerApiKey": each["ApiKey"]} for each in operation["security"]]
    who = " and ".join(f"`{each}`" for each in needed)
    said = operation.get("description")
    least = "Needs an API key, whatever that may do." if operation["security"] else "Needs no API key."
    operation["description"] = (f"{said}\n\n" if said else "") + (f"Needs {who}." if needed else least)


def _correct_parameters(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _given(parameter["schema"])


def _correct_body(operation: dict[str, Any]) -> None:
    """One that can be left out need not be null, with which generated clients go wrong."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content["schema"] = _given(content["schema"])


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of something optional without null: it can be left out, but nobody can send null in an address."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return kinds[0] if "$ref" in kinds[0] else {name: schema[name] for name in schema if name != "anyOf"} | kinds[0]


def _correct_errors(operation: dict[str, Any], common: Mapping[int | str, Mapping[str, Any]]) -> None:
    responses: dict[str, Any] = operation["responses"]
    for status, response in common.items():
        described = [*responses.get(str(status), {}).get("content", {}).values()]
        if not described or described[0]["schema"] != PROBLEM:  # not at all, or as the framework does
            responses[str(status)] = {"description": response["description"]}
    for status in sorted(status for status in responses if int(status) >= 400):
        responses[status] = {**responses.pop(status), "content": {MEDIA_TYPE: {"schema": PROBLEM}}}


def _show_examples(operation: dict[str, Any], examples: Examples) -> None:
    """Every body that is sent or answered has an example: the one that is given, or one made by its schema."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content.setdefault("example", examples.of(content["schema"], sent=True))
    for status, response in operation["responses"].items():
        for content in response.get("content", {}).values() if status < "3" else ():
            if "itemSchema" in content:
                content.pop("schema", None)  # of a text, and a stream is read as a list of its items
            content.setdefault("example", examples.of(content.get("schema", {})))


def shown(description: str, example: Any) -> dict[str, Any]:
    """The answer of an operation whose values no model describes."""
    return {"description": description, "content": {"application/json": {"example": example}}}


def links(parameter: str, *operations: str, at: str = "/id") -> dict[str, Any]:
    """The OpenAPI links from an answer with an id (`at` a JSON Pointer) to operations that take it as `parameter`."""
    return {each: {"operationId": each, "parameters": {parameter: f"$response.body#{at}"}} for each in operations}
