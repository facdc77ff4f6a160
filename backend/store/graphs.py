"""Graphs: each version is a row that never changes; one version of a graph is active.

A graph that came in the file of another is a row like any other, for its runs, but is not listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total
from backend.store.users import DEFAULT_USER


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """One version of a graph. `document` is the graph as JSON (nodes, links, sub-graphs)."""

    id: UUID
    version: int
    is_active: bool
    name: str
    document: dict[str, Any]
    created_at: datetime
    included_in: UUID | None
    user_id: UUID


async def insert(
    connection: Queryable,
    id: UUID,
    version: int,
    name: str,
    document: dict[str, Any],
    user_id: UUID = DEFAULT_USER,
) -> StoredGraph:
    """Store a graph with all that are in it, in one transaction."""
    included = list(_below(document))
    row = await connection.fetchrow(
        """
        WITH included AS (
            INSERT INTO graphs (id, version, name, document, included_in, user_id)
            SELECT id, version, name, document::json, $1, $9
            FROM unnest($5::uuid[], $6::int[], $7::text[], $8::text[]) AS graph (id, version, name, document)
        )
        INSERT INTO graphs (id, version, name, document, user_id) VALUES ($1, $2, $3, $4, $9) RETURNING *
        """,
        id,
        version,
        _as_text(name),
        document,
        [UUID(graph["id"]) for graph in included],
        [graph["version"] for graph in included],
        [_as_text(graph["name"]) for graph in included],
        [orjson.dumps(graph).decode() for graph in included],
        user_id,
    )
    assert row is not None
    return _graph(row)


def _below(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for graph in document.get("sub_graphs", ()):
        yield graph
        yield from _below(graph)


def _as_text(name: str) -> str:
    """PostgreSQL's text, unlike its json, cannot hold U+0000."""
    return name.replace("\0", "")


async def get(connection: Queryable, id: UUID, version: int | None = None) -> StoredGraph | None:
    """A version of a graph, or its active one."""
    row = await connection.fetchrow(
        "SELECT * FROM graphs WHERE id = $1 AND (version = $2 OR ($2::int IS NULL AND is_active))", id, version
    )
    return _graph(row) if row else None


async def name_of(connection: Queryable, user_id: UUID, id: UUID, version: int) -> str | None:
    """The name of a version of a graph of this user; None if there is no such version."""
    return await connection.fetchval(
        "SELECT name FROM graphs WHERE id = $1 AND version = $2 AND user_id = $3", id, version, user_id
    )


_LISTED = "FROM graphs WHERE user_id = $1 AND is_active AND included_in IS NULL"


async def page(connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None) -> list[StoredGraph]:
    """The active graphs of a user, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"SELECT * {_LISTED} AND (created_at, id) < ($3, $4) ORDER BY created_at DESC, id DESC LIMIT $2",
        user_id,
        limit,
        *(before or START),
    )
    return [_graph(row) for row in rows]


async def count(connection: Queryable, user_id: UUID) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, f"SELECT id {_LISTED}", (user_id,))


def _graph(row: Record) -> StoredGraph:
    return StoredGraph(*(row[field] for field in StoredGraph.__slots__))
