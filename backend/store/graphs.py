"""Graphs: each version is a row that never changes; one version of a graph is active.

A graph that came in the file of another is a row like any other, for its runs, but is not listed. One that is deleted
is there for its runs only, until the last of them is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Required, TypedDict, Unpack
from uuid import UUID

import orjson
from asyncpg import Record

from backend.store.connection import Queryable
from backend.store.lists import START, Place, total
from backend.store.users import DEFAULT_USER


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """One version of a graph, without its document, which may be large: `documents` has that.

    `created_at` is the time of its first version, `updated_at` that of this one.
    """

    id: UUID
    version: int
    is_active: bool
    name: str
    created_at: datetime
    updated_at: datetime
    included_in: UUID | None
    user_id: UUID

    @property
    def belongs_to(self) -> UUID:
        """The graph in whose file it came: itself, or another."""
        return self.included_in or self.id


@dataclass(frozen=True, slots=True)
class ListedGraph:
    """A version of a graph as it is listed."""

    id: UUID
    version: int
    is_active: bool
    name: str
    description: str
    created_at: datetime
    updated_at: datetime


_COLUMNS = "id, version, is_active, name, included_in, user_id, first_at AS created_at, created_at AS updated_at"
_SHORT = "id, version, is_active, name, description, created_at AS updated_at"
_SUMMARY = f"{_SHORT}, first_at AS created_at"

# A user, a graph of theirs, and a version of it or None for the active one.
Wanted = tuple[UUID, UUID, int | None]


async def insert(
    connection: Queryable,
    id: UUID,
    version: int,
    name: str,
    document: dict[str, Any],
    user_id: UUID = DEFAULT_USER,
    included_in: UUID | None = None,
) -> StoredGraph:
    """Store a version of a graph with all graphs that are in it, in one transaction. Each is the active version."""
    included = list(_below(document))
    row = await connection.fetchrow(
        f"""
        WITH wanted AS (
            SELECT $1::uuid AS id, $2::int AS version, $3::text AS name, $10::text AS description, $4::json AS document,
                $11::uuid AS included_in
            UNION ALL
            SELECT id, version, name, description, document::json, coalesce($11, $1)
            FROM unnest($5::uuid[], $6::int[], $7::text[], $12::text[], $8::text[])
                AS graph (id, version, name, description, document)
        ), inserted AS (
            INSERT INTO graphs (id, version, name, description, document, included_in, user_id, created_at, first_at)
            SELECT id, version, name, description, document, included_in, $9, greatest(now(), last + '1 microsecond'),
                coalesce(first, now())
            FROM wanted, LATERAL (
                SELECT (SELECT first_at FROM graphs WHERE graphs.id = wanted.id ORDER BY created_at LIMIT 1) AS first,
                    (SELECT created_at FROM graphs WHERE graphs.id = wanted.id ORDER BY created_at DESC LIMIT 1) AS last
            ) AS before
            RETURNING *
        )
        SELECT {_COLUMNS} FROM inserted WHERE id = $1
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
        _as_text(document.get("description") or ""),
        included_in,
        [_as_text(graph["description"]) for graph in included],
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


async def documents(
    connection: Queryable, wanted: Collection[tuple[UUID, int]]
) -> dict[tuple[UUID, int], dict[str, Any]]:
    """Of versions of graphs, those that there are as JSON (nodes, links, sub-graphs): for their runs even when they are
    deleted."""
    rows = await connection.fetch(
        "SELECT id, version, document FROM unnest($1::uuid[], $2::int[]) AS wanted (id, version)"
        " JOIN graphs USING (id, version)",
        [id for id, _ in wanted],
        [version for _, version in wanted],
    )
    return {(row["id"], row["version"]): row["document"] for row in rows}


async def get_kept(connection: Queryable, user_id: UUID, id: UUID, version: int | None = None) -> StoredGraph | None:
    """A version of a graph of this user, or its active one, unless it is deleted."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM graphs
        WHERE id = $1 AND user_id = $3 AND deleted_at IS NULL AND (version = $2 OR ($2::int IS NULL AND is_active))
        """,
        id,
        version,
        user_id,
    )
    return _graph(row) if row else None


async def get_many_kept(connection: Queryable, wanted: Sequence[Wanted]) -> dict[Wanted, StoredGraph]:
    """Those that there are of many that are looked for as with `get_kept`."""
    rows = await connection.fetch(
        f"""
        SELECT place, graph.* FROM unnest($1::uuid[], $2::uuid[], $3::int[]) WITH ORDINALITY
            AS wanted (of_user, graph_id, graph_version, place),
            LATERAL (
                SELECT {_COLUMNS} FROM graphs
                WHERE id = graph_id AND user_id = of_user AND deleted_at IS NULL
                    AND (version = graph_version OR (graph_version IS NULL AND is_active))
            ) AS graph
        """,
        *([each[column] for each in wanted] for column in range(3)),
    )
    return {wanted[row["place"] - 1]: _graph(row) for row in rows}


async def kept(connection: Queryable, user_id: UUID, wanted: Collection[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    """Those of the versions of graphs that this user has, and has not deleted."""
    rows = await connection.fetch(
        """
        SELECT id, version FROM unnest($2::uuid[], $3::int[]) AS wanted (id, version) JOIN graphs USING (id, version)
        WHERE user_id = $1 AND deleted_at IS NULL
        """,
        user_id,
        [id for id, _ in wanted],
        [version for _, version in wanted],
    )
    return {(row["id"], row["version"]) for row in rows}


async def name_of(connection: Queryable, user_id: UUID, id: UUID, version: int) -> str | None:
    """The name of a version of a graph of this user, as its runs have it even when it is deleted."""
    return await connection.fetchval(
        "SELECT name FROM graphs WHERE id = $1 AND version = $2 AND user_id = $3", id, version, user_id
    )


async def name_for(connection: Queryable, run_id: UUID, id: UUID, version: int) -> str | None:
    """The name of a version of a graph that a run may begin a run of: of the same user, and not deleted before this run
    was made. A run whose own graph is deleted goes on as it would have."""
    return await connection.fetchval(
        """
        SELECT graphs.name FROM runs JOIN graphs ON graphs.user_id = runs.user_id
        WHERE runs.id = $1 AND graphs.id = $2 AND graphs.version = $3 AND (
            graphs.deleted_at IS NULL OR graphs.deleted_at >= runs.created_at OR (
                SELECT deleted_at FROM graphs AS own WHERE own.id = runs.graph_id AND own.version = runs.graph_version
            ) IS NOT NULL
        )
        """,
        run_id,
        id,
        version,
    )


# Versions

# Not by max() and min(), for which PostgreSQL may read them all.
_NEWEST = "SELECT version FROM graphs WHERE id = $1 ORDER BY version DESC LIMIT 1"
_OLDEST = "SELECT version FROM graphs WHERE id = $1 ORDER BY version LIMIT 1"


async def lock(connection: Queryable, id: UUID) -> None:
    """Let nobody else change the graph until the transaction ends; its runs are not kept waiting."""
    await connection.execute(
        "SELECT FROM graphs WHERE id = $1 ORDER BY version LIMIT 1 FOR NO KEY UPDATE",
        id,
    )


async def newest_version(connection: Queryable, id: UUID) -> int | None:
    return await connection.fetchval(_NEWEST, id)


async def newest_included(connection: Queryable, included_in: UUID, ids: Sequence[UUID]) -> dict[UUID, int]:
    """The newest versions of those of the graphs that came in the file of another."""
    rows = await connection.fetch(
        """
        SELECT newest.* FROM unnest($2::uuid[]) AS wanted (id), LATERAL (
            SELECT id, version, included_in FROM graphs WHERE graphs.id = wanted.id ORDER BY version DESC LIMIT 1
        ) AS newest WHERE included_in = $1
        """,
        included_in,
        ids,
    )
    return {row["id"]: row["version"] for row in rows}


async def deactivate(connection: Queryable, ids: Sequence[UUID]) -> None:
    """Take back which versions of these graphs are active: another will be."""
    await connection.execute("UPDATE graphs SET is_active = false WHERE is_active AND id = ANY($1::uuid[])", ids)


async def activate(connection: Queryable, stored: StoredGraph) -> None:
    """Make this the active version of the graph, with those of the graphs in it."""
    active = stored.id, stored.version
    document = (await documents(connection, [active]))[active]
    below = {UUID(graph["id"]): graph["version"] for graph in _below(document)} | {stored.id: stored.version}
    await deactivate(connection, list(below))
    await connection.execute(
        """
        UPDATE graphs SET is_active = true FROM unnest($1::uuid[], $2::int[]) AS wanted (id, version)
        WHERE graphs.id = wanted.id AND graphs.version = wanted.version
        """,
        list(below),
        list(below.values()),
    )


async def delete(connection: Queryable, id: UUID) -> None:
    """Nobody will see the graph, with those that came with it, any more, but the runs that there are."""
    await connection.execute(
        "UPDATE graphs SET deleted_at = now(), is_active = false"
        " WHERE id IN (SELECT id FROM graphs WHERE id = $1 OR included_in = $1) AND deleted_at IS NULL",
        id,
    )


# Lists


_LISTED = "FROM graphs WHERE user_id = $1 AND is_active AND included_in IS NULL"
_SEARCHED = "lower(left(name, 200) || chr(10) || left(description, 500))"


class Page(TypedDict, total=False):
    """Which part of a list is wanted: what is from just after the row at `before`, and has this in its name."""

    limit: Required[int]
    before: Place | None
    name: str | None


async def page(connection: Queryable, user_id: UUID, **wanted: Unpack[Page]) -> list[ListedGraph]:
    """The active graphs of a user, newest first."""
    return [_listed(row) for row in await _page(connection, _SUMMARY, user_id, **wanted)]


async def whole_page(connection: Queryable, user_id: UUID, **wanted: Unpack[Page]) -> list[StoredGraph]:
    """The same as they are stored."""
    return [_graph(row) for row in await _page(connection, _COLUMNS, user_id, **wanted)]


async def _page(
    connection: Queryable,
    columns: str,
    user_id: UUID,
    *,
    limit: int,
    before: Place | None = None,
    name: str | None = None,
) -> list[Record]:
    condition, words = _having(name)
    return await connection.fetch(
        f"SELECT {columns} {_LISTED} AND (first_at, id) < ($2, $3){condition}"
        f" ORDER BY first_at DESC, id DESC LIMIT {limit:d}",
        user_id,
        *(before or START),
        *words,
    )


async def count(connection: Queryable, user_id: UUID, name: str | None = None) -> int:
    """How many there are: exactly, if they are few."""
    condition, words = _having(name)
    query = f"SELECT id {_LISTED} AND (first_at, id) < ($2, $3){condition}"
    return await total(connection, query, (user_id, *START, *words))


def _having(name: str | None) -> tuple[str, list[str]]:
    if name is None:
        return "", []
    return (
        f" AND text_parts({_SEARCHED}) @> text_parts(lower($4)) AND position(lower($4) IN lower(left(name, 200))) > 0",
        [name],
    )


async def search(connection: Queryable, user_id: UUID, words: Sequence[str], limit: int) -> list[ListedGraph]:
    """Active graphs of a user that have each of the words in name or description: those first that have all in their
    names, then the newest."""
    rows = await connection.fetch(
        f"""
        SELECT {_SUMMARY} {_LISTED}
            AND text_parts({_SEARCHED}) @> ARRAY(SELECT unnest(text_parts(lower(word))) FROM unnest($2::text[]) AS word)
            AND (SELECT bool_and(position(lower(word) IN {_SEARCHED}) > 0) FROM unnest($2::text[]) AS word)
        ORDER BY (SELECT bool_and(position(lower(word) IN lower(name)) > 0) FROM unnest($2::text[]) AS word) DESC,
            first_at DESC, id DESC
        LIMIT {limit:d}
        """,
        user_id,
        words,
    )
    return [_listed(row) for row in rows]


async def versions(connection: Queryable, id: UUID, *, limit: int, before: Place | None = None) -> list[ListedGraph]:
    """The versions of a graph, newest first, from just after the row at `before`. `created_at` is that of each."""
    rows = await connection.fetch(
        f"SELECT {_SHORT}, created_at FROM graphs"
        " WHERE id = $1 AND created_at <= $2 AND (created_at, id) < ($2, $3)"
        f" ORDER BY created_at DESC LIMIT {limit:d}",
        id,
        *(before or START),
    )
    return [_listed(row) for row in rows]


async def count_versions(connection: Queryable, id: UUID) -> int:
    """How many there are. Their numbers have no gaps."""
    return await connection.fetchval(f"SELECT ({_NEWEST}) - ({_OLDEST}) + 1", id) or 0


def _listed(row: Record) -> ListedGraph:
    return ListedGraph(*(row[field] for field in ListedGraph.__slots__))


def _graph(row: Record) -> StoredGraph:
    return StoredGraph(*(row[field] for field in StoredGraph.__slots__))
