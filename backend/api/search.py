"""The resource /search: agents and blocks by what they are called, or say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.paging import Limit
from backend.api.services import Use
from backend.blocks import registry
from backend.store import graphs

# Agents that are looked at: those that have the words in their names, then the newest.
CANDIDATES = 200

Searcher = Annotated[Caller, needs(Permission.READ_GRAPH, Permission.READ_BLOCK)]
ContentType = Literal["AGENT", "BLOCK"]

router = APIRouter(prefix="/api/v2/search", tags=["search"])


class Found(BaseModel):
    """An agent or a block that has all the words."""

    content_type: ContentType
    id: str = Field(description="of the graph, or of the block")
    name: str
    description: str


class Results(BaseModel):
    """What fits best comes first."""

    items: list[Found]


@router.get("", operation_id="search", summary="Search for agents and blocks")
async def search(
    use: Use,
    caller: Searcher,
    query: Annotated[
        str, Query(min_length=1, max_length=200, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", examples=["mail"])
    ],
    content_types: Annotated[list[ContentType] | None, Query(description="only these; may be repeated")] = None,
    limit: Limit = 20,
) -> Results:
    """Each word has to be in the name or the description (its first 500 characters, of an agent), in capitals or not,
    be it within another word. What has the words in its name comes first, and what is called just so before all."""
    words, wanted = query.split(), content_types or ("AGENT", "BLOCK")
    found = [*(await _agents(use, caller, words) if "AGENT" in wanted else ())]
    found += [block for block in _blocks() if "BLOCK" in wanted and _has(f"{block.name}\n{block.description}", words)]
    found.sort(key=lambda each: _rank(each, query.strip(), words))
    return Results(items=found[:limit])


async def _agents(use: Use, caller: Caller, words: Sequence[str]) -> Iterator[Found]:
    rows = await graphs.search(use.database, caller.user_id, words, CANDIDATES)
    return (Found(content_type="AGENT", id=str(row.id), name=row.name, description=row.description) for row in rows)


def _blocks() -> Iterator[Found]:
    for block in sorted(registry.blocks().values(), key=lambda block: block.name):
        yield Found(content_type="BLOCK", id=block.id, name=block.name, description=block.description)


def _rank(found: Found, query: str, words: Sequence[str]) -> int:
    """The less, the better it fits."""
    name, whole = found.name.lower(), query.lower()
    if name in (whole, f"{whole}block"):
        return 0
    if name.startswith(whole):
        return 1
    return 2 if _has(name, words) else 3


def _has(text: str, words: Sequence[str]) -> bool:
    return all(word.lower() in text.lower() for word in words)
