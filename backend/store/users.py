"""Users: to whom graphs, runs and all else belong, each seen by nobody but its owner."""

from __future__ import annotations

from uuid import UUID

# The user of a server without login; its id is upstream's.
DEFAULT_USER = UUID("3e53486c-cf57-477e-ba2a-cb02dc828e1a")
