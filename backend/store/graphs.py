"""Graphs: each version is a row that never changes; one version of a graph is active."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from backend.store.connection import Queryable


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """One version of a graph. `document` is the graph as JSON (nodes, links, sub-graphs)."""

    id: UUID
    version: int
    is_active: bool
    name: str
    document: dict[str, Any]
    created_at: datetime


async def insert(connection: Queryable, id: UUID, version: int, name: str, document: dict[str, Any]) -> StoredGraph:
    row = await connection.fetchrow(
        "INSERT INTO graphs (id, version, name, document) VALUES ($1, $2, $3, $4) RETURNING *",
        id,
        version,
        name,
        document,
    )
    assert row is not None
    return _graph(row)


async def get(connection: Queryable, id: UUID, version: int | None = None) -> StoredGraph | None:
    """A version of a graph, or its active one."""
    row = await connection.fetchrow(
        "SELECT * FROM graphs WHERE id = $1 AND (version = $2 OR ($2::int IS NULL AND is_active))", id, version
    )
    return _graph(row) if row else None


async def page(connection: Queryable, *, limit: int, before: tuple[datetime, UUID] | None = None) -> list[StoredGraph]:
    """Active graphs, newest first, from just after the row at `before`."""
    rows = await connection.fetch(
        "SELECT * FROM graphs WHERE is_active AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3::uuid))"
        " ORDER BY created_at DESC, id DESC LIMIT $1",
        limit,
        *(before or (None, None)),
    )
    return [_graph(row) for row in rows]


async def count(connection: Queryable) -> int:
    return await connection.fetchval("SELECT count(*) FROM graphs WHERE is_active")


def _graph(row: Record) -> StoredGraph:
    return StoredGraph(**dict(row))
