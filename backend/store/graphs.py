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


async def insert(connection: Queryable, id: UUID, version: int, name: str, document: dict[str, Any]) -> StoredGraph:
    """Store a graph with all that are in it, in one transaction."""
    included = list(_below(document))
    row = await connection.fetchrow(
        """
        WITH included AS (
            INSERT INTO graphs (id, version, name, document, included_in)
            SELECT id, version, name, document::json, $1
            FROM unnest($5::uuid[], $6::int[], $7::text[], $8::text[]) AS graph (id, version, name, document)
        )
        INSERT INTO graphs (id, version, name, document) VALUES ($1, $2, $3, $4) RETURNING *
        """,
        id,
        version,
        _as_text(name),
        document,
        [UUID(graph["id"]) for graph in included],
        [graph["version"] for graph in included],
        [_as_text(graph["name"]) for graph in included],
        [orjson.dumps(graph).decode() for graph in included],
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


async def name_of(connection: Queryable, id: UUID, version: int) -> str | None:
    """The name of a version of a graph; None if there is no such version."""
    return await connection.fetchval("SELECT name FROM graphs WHERE id = $1 AND version = $2", id, version)


_LISTED = "FROM graphs WHERE is_active AND included_in IS NULL"


async def page(connection: Queryable, *, limit: int, before: Place | None = None) -> list[StoredGraph]:
    """Active graphs, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        f"SELECT * {_LISTED} AND (created_at, id) < ($2, $3) ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
        *(before or START),
    )
    return [_graph(row) for row in rows]


async def count(connection: Queryable) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, f"SELECT id {_LISTED}", ())


def _graph(row: Record) -> StoredGraph:
    return StoredGraph(*(row[field] for field in StoredGraph.__slots__))
