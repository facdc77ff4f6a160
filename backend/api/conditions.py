"""Entity tags (RFC 9110): whether what a client has, or means to change, is as it was when the client read it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated

from fastapi import Header

from backend.errors import PreconditionFailed

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="an `ETag` as it was read: 412 if that has changed", max_length=10_000),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="an `ETag` as it was read: 304 if that is as it was", max_length=10_000),
]


def tag_of(content: bytes) -> str:
    return f'"{sha256(content).hexdigest()[:32]}"'


def check_match(wanted: str | None, tag: str) -> None:
    """Raises PreconditionFailed unless the tag is one of those wanted, or none is."""
    if wanted is not None and not {"*", tag} & {*_tags(wanted)}:
        raise PreconditionFailed(f"It has changed: its ETag is {tag} now. Read it again, and decide anew.")


def is_known(known: str | None, tag: str) -> bool:
    """Whether the client has what the tag stands for."""
    return known is not None and bool({"*", tag} & {each.removeprefix("W/") for each in _tags(known)})


def _tags(header: str) -> Iterator[str]:
    return (each.strip() for each in header.split(","))
