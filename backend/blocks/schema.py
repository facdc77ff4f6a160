"""The JSON schema of a block's pins, in the form clients know: without references."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from backend.blocks.json_values import is_dict, is_list


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return {type, properties, required}; `required` is absent where nothing is."""
    schema = model.model_json_schema()
    definitions: dict[str, Any] = schema.get("$defs", {})
    properties: dict[str, Any] = _inlined(schema.get("properties", {}), definitions)
    required = {"required": schema["required"]} if schema.get("required") else {}
    return {"type": "object", "properties": properties, **required}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    if is_list(part):
        return [_inlined(item, definitions) for item in part]
    if not is_dict(part):
        return part
    if "$ref" in part:
        target = definitions[part["$ref"].rsplit("/", 1)[1]]
        part = {**target, **{key: value for key, value in part.items() if key != "$ref"}}
    if "propertyName" in part:  # a discriminator, whose mapping points to the references that are gone
        return {"propertyName": part["propertyName"]}
    return {key: _inlined(value, definitions) for key, value in part.items()}
