"""Users: to whom graphs, runs and all else belong, each seen by nobody but its owner."""

from __future__ import annotations

from uuid import UUID

from backend.store.connection import Queryable
from backend.store.identifiers import new_id

# The user of a server without login; its id is upstream's.
DEFAULT_USER = UUID("3e53486c-cf57-477e-ba2a-cb02dc828e1a")


async def named(connection: Queryable, name: str) -> UUID:
    """The id of the user with this name, who is made if there is none."""
    return await connection.fetchval(
        """
        WITH made AS (
            INSERT INTO users (id, name) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET name = excluded.name
            RETURNING id
        )
        SELECT id FROM made
        """,
        new_id(),
        name,
    )
