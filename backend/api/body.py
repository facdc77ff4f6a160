"""Reads the body of a request: JSON that says it is JSON, of bounded size, without NaN or half characters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from functools import lru_cache
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from backend.errors import MalformedJson, TooLarge, Unprocessable, UnsupportedMediaType
from backend.graphs.exchange import MAX_FILE_BYTES
from backend.graphs.faults import GraphFileError, printable
from backend.graphs.structure import MAX_DEPTH, check_depth, content_faults


class Body(BaseModel):
    """What a client sends as JSON: nothing in it is taken for what it is not (`true` or "3" for a number), and nothing
    is passed over."""

    model_config = ConfigDict(strict=True, extra="forbid")


def example(**fields: Any) -> ConfigDict:
    """The `model_config` of a body that shows an example of the whole."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


async def read_json_bytes(request: Request) -> bytes:
    """The body, which has to be declared as JSON. Raises TooLarge, UnsupportedMediaType."""
    body = await read_bytes(request, MAX_FILE_BYTES)
    found = request.headers.get("content-type")
    if body and not is_json(found):
        raise UnsupportedMediaType(f"Content-Type is {found or 'missing'}: send JSON as application/json.")
    return body


async def read_bytes(request: Request, at_most: int) -> bytes:
    """The body. Raises TooLarge, UnsupportedMediaType."""
    body = bytearray()
    packed = request.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding is {printable(packed)[:100]}: send the body as it is.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_FILE_BYTES:
        raise TooLarge(f"The body has {int(announced):,} bytes: {MAX_FILE_BYTES:,} (16 MiB) are the most.")
    async for chunk in request.stream():
        body += chunk
        if len(body) > at_most:
            raise TooLarge(f"The body is larger than the {at_most:,} bytes ({at_most >> 20} MiB) allowed.")
    return bytes(body)


def is_json(content_type: str | None) -> bool:
    kind = media_type(content_type)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


@lru_cache(1000)
def media_type(content_type: str | None) -> str:
    """What a Content-Type says, without its parameters, in small letters."""
    message = Message()
    message["content-type"] = content_type or "none/given"
    return message.get_content_type()


class JsonRoute(APIRoute):
    """A route whose declared body is read by the rules above instead of the framework's own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            raw = await read_json_bytes(request)
            value = parsed(raw)
            if raw and value is None:
                raise Unprocessable("The body is null: send an object, or none at all if it may be left out.")
            return await handle(_ReadRequest(request, raw, value))

        return with_json if self.body_field else handle


class _ReadRequest(Request):
    """A request whose body has been read already."""

    def __init__(self, request: Request, raw: bytes, value: object) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = raw
        self._value = value

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> object:
        return self._value


def parsed(raw: bytes) -> Any:
    """The value of a body of JSON. Raises MalformedJson, Unprocessable."""
    if not raw:
        return None
    try:
        value = orjson.loads(raw)
        check_depth(value)
    except orjson.JSONDecodeError as error:
        detail = f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})."
        raise MalformedJson(detail) from None
    except GraphFileError:
        raise Unprocessable(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    # Only as an escape can JSON contain it; so this look saves most bodies the search.
    if rb"\u0000" in raw:
        check_content(value)
    return value


def check_content(value: Any) -> None:
    """Raises Unprocessable for what cannot be stored."""
    if faults := content_faults(value):
        errors = [fault._asdict() for fault in faults]
        raise Unprocessable("; ".join(fault.message for fault in faults), errors=errors)
