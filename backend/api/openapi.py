"""The OpenAPI document: what the framework derives, with what it gets wrong put right, and links."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from backend.api.problem import MEDIA_TYPE


def install(app: FastAPI) -> None:
    """Make the app serve its document with the corrections of this file."""
    derive = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            _correct(derive())
        return derive()

    app.openapi = corrected


BEARER = {"type": "http", "scheme": "bearer", "description": "The API key, as a bearer token"}


def _correct(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"]["BearerApiKey"] = BEARER
    for path in document["paths"].values():
        for operation in path.values():
            for needed in [*operation.get("security", ())]:
                operation["security"].append({"BearerApiKey": needed["ApiKey"]})
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _given(parameter["schema"])
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    response["content"] = {MEDIA_TYPE: next(iter(response["content"].values()))}


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional parameter without null: it can be left out, but nobody can send null in an address."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return {name: value for name, value in schema.items() if name != "anyOf"} | kinds[0] if kinds else schema


def links(parameter: str, *operations: str, at: str = "/id") -> dict[str, Any]:
    """The OpenAPI links from an answer with an id (`at` a JSON Pointer) to operations that take it as `parameter`."""
    return {each: {"operationId": each, "parameters": {parameter: f"$response.body#{at}"}} for each in operations}
