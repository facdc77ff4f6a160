"""Files: a row for what is told of each, and its bytes in chunks, so that no process ever holds all of a large one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from uuid import UUID

from backend.store.connection import Queryable
from backend.store.identifiers import new_id
from backend.store.lists import START, Place, total

# Bytes; all chunks of a file but the last have as many.
CHUNK = 256 * 1024
# Characters of a name.
LONGEST_NAME = 200
# Files that are deleted in one transaction.
AT_ONCE = 100

SCHEME = "agpt-file://"
UNKNOWN_TYPE = "application/octet-stream"
# Categories of characters: controls, marks that turn the direction of writing, halves, those that stand for nothing.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,80}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """All of a file but its bytes. `content` is another whenever the file is replaced."""

    id: UUID
    name: str
    content_type: str
    size: int
    content: UUID
    created_at: datetime
    expires_at: datetime | None

    @property
    def uri(self) -> str:
        return f"{SCHEME}{self.id}"


_COLUMNS = ", ".join(StoredFile.__slots__)
_THERE = "(expires_at IS NULL OR expires_at > now())"


def id_in(uri: str) -> UUID | None:
    """The id of the file that a URI of ours names."""
    with suppress(ValueError):
        return UUID(uri.removeprefix(SCHEME)) if uri.startswith(SCHEME) else None
    return None


def clean_name(name: str | None) -> str:
    """The last part of a path, without characters that are not seen; `file` if nothing is left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", (name or "")[:100_000]))[-1]
    seen = "".join(
        each for each in last if unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    )
    stripped = seen.strip().strip(".").strip()
    suffix = PurePosixPath(stripped).suffix[:20]
    return (stripped if len(stripped) <= LONGEST_NAME else stripped[: LONGEST_NAME - len(suffix)] + suffix) or "file"


def clean_type(content_type: str | None) -> str:
    """The media type without its parameters; that of any bytes if it is none."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind if _TYPE.fullmatch(kind) else UNKNOWN_TYPE


async def page(connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None) -> list[StoredFile]:
    """Files, newest first, from just after the row at `before`."""
    query = f"SELECT {_COLUMNS} FROM files WHERE user_id = $1 AND (created_at, id) < ($2, $3) AND {_THERE}"
    query = f"{query} ORDER BY created_at DESC, id DESC LIMIT {limit:d}"
    return [StoredFile(*row) for row in await connection.fetch(query, user_id, *(before or START))]


async def count(connection: Queryable, user_id: UUID) -> int:
    """How many there are: exactly, if they are few."""
    return await total(connection, f"SELECT id FROM files WHERE user_id = $1 AND {_THERE}", [user_id])


async def get(connection: Queryable, user_id: UUID, id: UUID) -> StoredFile | None:
    query = f"SELECT {_COLUMNS} FROM files WHERE user_id = $1 AND id = $2 AND {_THERE}"
    row = await connection.fetchrow(query, user_id, id)
    return StoredFile(*row) if row else None


async def lock_name(connection: Queryable, user_id: UUID, name: str) -> StoredFile | None:
    """The newest file of this name. Until the end of the transaction nobody else does this for the name."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"file {user_id} {name}")
    query = f"SELECT {_COLUMNS} FROM files WHERE user_id = $1 AND name = $2 AND {_THERE}"
    row = await connection.fetchrow(f"{query} ORDER BY created_at DESC, id DESC LIMIT 1", user_id, name)
    return StoredFile(*row) if row else None


async def add_chunk(connection: Queryable, content: UUID, number: int, chunk: bytes) -> None:
    await connection.execute(
        "INSERT INTO file_chunks (content, number, bytes) VALUES ($1, $2, $3)", content, number, chunk
    )


async def put(connection: Queryable, user_id: UUID, file: StoredFile) -> StoredFile:
    """Store a file whose chunks are there already, in place of that with its id."""
    row = await connection.fetchrow(
        f"""
        WITH old AS (
            DELETE FROM file_chunks WHERE content IN (
                SELECT content FROM files WHERE id = $1 AND user_id = $8 AND content <> $5
            )
        )
        INSERT INTO files ({_COLUMNS}, user_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (id) DO UPDATE SET content_type = excluded.content_type, size = excluded.size,
            content = excluded.content, created_at = excluded.created_at, expires_at = excluded.expires_at
        RETURNING {_COLUMNS}
        """,
        *(getattr(file, name) for name in StoredFile.__slots__),
        user_id,
    )
    assert row is not None
    return StoredFile(*row)


async def put_once(
    connection: Queryable, user_id: UUID, id: UUID, name: str, content_type: str, content: bytes
) -> None:
    """Store a file for ever; nothing happens if there is one with this id."""
    await connection.execute(
        """
        WITH file AS (
            INSERT INTO files (id, user_id, name, content_type, size, content) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT DO NOTHING RETURNING content
        )
        INSERT INTO file_chunks (content, number, bytes)
        SELECT content, number - 1, bytes FROM file, unnest($7::bytea[]) WITH ORDINALITY AS chunk (bytes, number)
        """,
        id,
        user_id,
        name,
        content_type,
        len(content),
        new_id(),
        list(_chunks(content)),
    )


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), CHUNK):
        yield content[start : start + CHUNK]


async def read(connection: Queryable, file: StoredFile, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
    """The bytes of a file from `start` to before `end`. Raises Gone if it is deleted or replaced meanwhile."""
    end = file.size if end is None else end
    for number in range(start // CHUNK, -(-end // CHUNK)):
        chunk = await connection.fetchval(
            "SELECT bytes FROM file_chunks WHERE content = $1 AND number = $2", file.content, number
        )
        if chunk is None:
            raise Gone(f"The file {file.id} was deleted or replaced while it was read.")
        yield chunk[max(0, start - number * CHUNK) : end - number * CHUNK]


class Gone(Exception):
    """What was being read is not there any more."""


async def delete(connection: Queryable, user_id: UUID, id: UUID) -> bool:
    """False if there is none."""
    return bool(await _delete(connection, f"user_id = $1 AND id = $2 AND {_THERE}", user_id, id))


async def delete_expired(connection: Queryable) -> int:
    """Delete the files whose time is over. Returns how many."""
    deleted = 0
    while found := await _delete(connection, f"id IN (SELECT id FROM files WHERE expires_at <= now() LIMIT {AT_ONCE})"):
        deleted += found
    return deleted


async def _delete(connection: Queryable, which: str, *arguments: object) -> int:
    return await connection.fetchval(
        f"""
        WITH gone AS (
            DELETE FROM files WHERE {which} RETURNING content
        ), chunks AS (
            DELETE FROM file_chunks WHERE content IN (SELECT content FROM gone)
        )
        SELECT count(*) FROM gone
        """,
        *arguments,
    )
