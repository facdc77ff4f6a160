"""Files as values of pins: one of ours by its URI, a `data:` URI that has it all, or an address to fetch it from."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from urllib.parse import unquote_to_bytes

from backend.blocks.block import BlockError, Context
from backend.blocks.outside import File
from backend.store.files import SCHEME, clean_type

# Bytes of a file that is a value itself: Base64 makes it a third longer, and 16 MiB is the most a value may have.
MAX_AS_VALUE = 12 * 1024 * 1024


async def passed_on(value: str, as_value: bool, context: Context) -> str:
    """The file as a URI of ours, or as a `data:` URI with all of it. Raises BlockError."""
    if value.startswith(SCHEME) and not as_value:
        await context.outside.find_file(value)
        return value
    if as_value and value.startswith("data:"):
        return _data_uri(_of_data(value))
    file = await opened(value, context)
    return _data_uri(file) if as_value else await context.outside.store_file(file)


async def opened(value: str, context: Context) -> File:
    """The file that a value stands for. Raises BlockError."""
    if value.startswith(SCHEME):
        return await context.outside.open_file(value)
    if value.startswith("data:"):
        return _of_data(value)
    if value.startswith(("http://", "https://")):
        from backend.blocks import _http  # noqa: PLC0415

        return await _http.download(value, context)
    raise BlockError(f"{value[:60]!r} is no file: give an {SCHEME}, data:, http:// or https:// address.")


def _of_data(uri: str) -> File:
    head, comma, content = uri.removeprefix("data:").partition(",")
    kind, *parameters = head.split(";")
    content_type = clean_type(kind or "text/plain")
    try:
        if not comma:
            raise ValueError("there is no comma")
        packed = unquote_to_bytes(content)
        found = base64.b64decode(packed, validate=True) if "base64" in parameters else packed
    except (ValueError, binascii.Error):
        raise BlockError("The data: address cannot be read: it has to be data:<type>;base64,<content>.") from None
    return File(f"file{mimetypes.guess_extension(content_type) or ''}", content_type, found)


def _data_uri(file: File) -> str:
    if len(file.content) > MAX_AS_VALUE:
        limit = MAX_AS_VALUE // (1024 * 1024)
        raise BlockError(f"The file {file.name} is larger than {limit} MiB: pass it on with base_64 off.")
    return f"data:{file.content_type};base64,{base64.b64encode(file.content).decode()}"
