"""The resource /files: what runs work on, sent up and down in a stream."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from backend.api.access import Caller, Permission, needs
from backend.api.conditions import is_known
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import (
    BadRequest,
    FileExists,
    InvalidCursor,
    NotAForm,
    RangeNotSatisfiable,
    TooLarge,
    UnknownFile,
    Unprocessable,
)
from backend.store import files
from backend.store.clock import CLOCK
from backend.store.connection import Pool
from backend.store.files import StoredFile
from backend.store.identifiers import new_id

router = APIRouter(prefix="/api/v2/files", tags=["files"])

Reader = Annotated[Caller, needs(Permission.READ_FILES)]
Writer = Annotated[Caller, needs(Permission.WRITE_FILES)]

MIB = 1024 * 1024
# Bytes of a form besides its file, and its parts.
AROUND = 64 * 1024
PARTS = 20

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class File(BaseModel):
    """A file, of which blocks take the `file_uri`."""

    id: UUID
    file_uri: str = Field(examples=["agpt-file://01980000-0000-7000-8000-000000000000"])
    file_name: str = Field(examples=["report.csv"])
    size: int = Field(description="bytes")
    content_type: str = Field(examples=["text/csv"])
    created_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted; null: never by itself")
    expires_in_hours: int | None = Field(description="how long that is from now, rounded up")


FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            },
            "example": {"file": "a,b\n1,2\n"},
        }
    },
}


@router.post(
    "/upload",
    status_code=201,
    operation_id="upload_file",
    summary="Upload a file",
    responses=documented(BadRequest, FileExists, TooLarge, NotAForm)
    | {
        201: {
            "links": links("file_id", "get_file", "download_file", "delete_file"),
            "description": "it is stored; its `file_uri` can be an input of a run",
        }
    },
    openapi_extra={"requestBody": FORM},
)
async def upload(
    request: Request,
    response: Response,
    use: Use,
    caller: Writer,
    overwrite: Annotated[bool, Query(description="replace your file of this name, which keeps its id")] = False,
    expires_in_hours: Annotated[int | None, Query(ge=1, le=48, description="left out: it is kept for ever")] = None,
) -> File:
    """A path in the name is left out, and so are characters that nobody sees."""
    sent = await _received(request, use.settings.upload_file_size_limit_mb * MIB)
    try:
        now = CLOCK.now()
        expires_at = now + timedelta(hours=expires_in_hours) if expires_in_hours else None
        name, kind = files.clean_name(sent.filename), files.clean_type(sent.content_type)
        file = StoredFile(new_id(), name, kind, sent.size or 0, new_id(), now, expires_at)
        stored = await _store(use.database, caller.user_id, file, sent, overwrite)
    finally:
        await sent.close()
    response.headers["Location"] = f"{router.prefix}/{stored.id}"
    return _shown(stored)


async def _received(request: Request, limit: int) -> UploadFile:
    """The file in a form: a large one is on the disk, until it is closed."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise NotAForm("Send the file as multipart/form-data, in the part `file`.")
    try:
        counted = _counted(request, limit)
        form = await MultiPartParser(request.headers, counted, max_files=1, max_fields=PARTS).parse()
    except MultiPartException as error:
        raise BadRequest(f"The form cannot be read: {error.message}") from None
    sent = form.get("file")
    if isinstance(sent, UploadFile):
        if (sent.size or 0) > limit:
            await sent.close()
            raise _too_large(limit)
        return sent
    await form.close()
    wrong = {"pointer": "/file", "code": "missing", "message": "there has to be a part `file` that is a file"}
    raise Unprocessable("The form has no file: send it in the part `file`, with a name.", errors=[wrong])


async def _counted(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    received, tail = 0, b""
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit + AROUND:
            raise _too_large(limit)
        tail = (tail + chunk)[-8:]
        yield chunk
    if not tail.rstrip().endswith(b"--"):  # raised here, the parser closes what it has; it would not miss anything
        raise MultiPartException("it ends before its last boundary.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The file is larger than the {limit // MIB} MiB that UPLOAD_FILE_SIZE_LIMIT_MB allows.")


async def _store(database: Pool, user_id: UUID, file: StoredFile, sent: UploadFile, overwrite: bool) -> StoredFile:
    async with database.acquire() as connection, connection.transaction():
        there = await files.lock_name(connection, user_id, file.name)
        if there and not overwrite:
            raise FileExists(f"You have a file {file.name}, {there.uri}: use ?overwrite=true to replace it.")
        number = 0
        while chunk := await sent.read(files.CHUNK):
            await files.add_chunk(connection, file.content, number, chunk)
            number += 1
        return await files.put(connection, user_id, replace(file, id=there.id) if there else file)


@router.get("", operation_id="list_files", summary="List your files, newest first", responses=documented(InvalidCursor))
async def list_(use: Use, caller: Reader, after: After, limit: Limit = 20) -> Page[File]:
    rows, next_cursor = cut(await files.page(use.database, caller.user_id, limit=limit + 1, before=after), limit)
    total = await files.count(use.database, caller.user_id)
    return Page(items=[_shown(row) for row in rows], next_cursor=next_cursor, total_count=total)


@router.get("/{file_id:uuid}", operation_id="get_file", summary="Show a file", responses=documented(UnknownFile))
async def show(file_id: UUID, use: Use, caller: Reader) -> File:
    return _shown(await _existing(use.database, caller, file_id))


ANY_BYTES = {"schema": {"type": "string", "format": "binary"}, "example": "a,b\n1,2\n"}
# Of the type that the file has; generated clients know the first only.
BYTES: dict[str, Any] = {"application/octet-stream": ANY_BYTES, "*/*": ANY_BYTES}


@router.head("/{file_id:uuid}/download", include_in_schema=False)
@router.get(
    "/{file_id:uuid}/download",
    operation_id="download_file",
    summary="Download a file",
    response_class=Response,
    responses=documented(UnknownFile, RangeNotSatisfiable)
    | {
        200: {"description": "its bytes", "content": BYTES},
        206: {"description": "the bytes of one `Range`", "content": BYTES},
        304: {"description": "it is the one of `If-None-Match`"},
    },
)
async def download(file_id: UUID, request: Request, use: Use, caller: Reader) -> Response:
    """Always as an attachment. One `Range` is answered with a part, if `If-Range` is not another `ETag`."""
    file = await _existing(use.database, caller, file_id)
    headers = _headers(file)
    if is_known(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(None, 304, headers=headers)
    start, end = _range(request, file)
    headers["Content-Length"] = str(end - start)
    whole = (start, end) == (0, file.size)
    if not whole:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = 200 if whole else 206
    if request.method == "HEAD":
        return Response(None, status, headers, file.content_type)
    content = files.read(use.database, file, start, end)
    try:
        first = await anext(content, b"")
    except files.Gone:
        return await download(file_id, request, use, caller)  # As it is by now: another, or none.
    return StreamingResponse(_after(first, content), status, headers=headers, media_type=file.content_type)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in rest:
        yield each


def _headers(file: StoredFile) -> dict[str, str]:
    return {
        "ETag": f'"{file.content}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
        # Packed on the way, a part would not be the part that was asked for.
        "Content-Encoding": "identity",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }


def _range(request: Request, file: StoredFile) -> tuple[int, int]:
    """From which byte to before which. What is not one range of bytes of this content asks for all."""
    first, last = _asked(request, file) or ("0", "")
    if not first:
        start, end = max(0, file.size - int(last)), file.size
    else:
        start, end = int(first), min(int(last) + 1, file.size) if last else file.size
    if start >= end and "range" in request.headers and file.size + start:
        size = {"Content-Range": f"bytes */{file.size}"}
        raise RangeNotSatisfiable(f"The file has {file.size:,} bytes, and none of those.", headers=size)
    return start, end


def _asked(request: Request, file: StoredFile) -> tuple[str, str] | None:
    """The first and the last byte as they are asked for, one of which may be empty."""
    etag = _headers(file)["ETag"]
    asked = RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if asked is None or asked[0] == "bytes=-" or request.headers.get("if-range", etag) != etag:
        return None
    first, last = asked.groups()
    return None if first and last and int(last) < int(first) else (first, last)


@router.delete(
    "/{file_id:uuid}",
    status_code=204,
    operation_id="delete_file",
    summary="Delete a file",
    responses=documented(UnknownFile),
)
async def delete(file_id: UUID, use: Use, caller: Writer) -> None:
    if not await files.delete(use.database, caller.user_id, file_id):
        raise _unknown(file_id)


async def _existing(database: Pool, caller: Caller, file_id: UUID) -> StoredFile:
    file = await files.get(database, caller.user_id, file_id)
    if file is None:
        raise _unknown(file_id)
    return file


def _unknown(id: UUID) -> UnknownFile:
    return UnknownFile(f"You have no file {id}.")


def _shown(file: StoredFile) -> File:
    hours = (file.expires_at - CLOCK.now()).total_seconds() / 3600 if file.expires_at else None
    return File(
        id=file.id,
        file_uri=file.uri,
        file_name=file.name,
        size=file.size,
        content_type=file.content_type,
        created_at=file.created_at,
        expires_at=file.expires_at,
        expires_in_hours=hours if hours is None else max(1, math.ceil(hours)),
    )
