"""What a block may wait for, and where it may keep values: a time, a person, another agent, a store of values.

A wait is written down before it begins, and may outlive the executor and days. Then the block is run again from its
start: what it has put out already is not put out again, and the waits that are over return at once with what they
returned before. So a block that waits does nothing before its last wait that must not be done twice.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Masks = dict[str, dict[str, Any]]


class BlockError(Exception):
    """A block could not do its work. The message is one sentence for the person who made the agent."""


class Review(NamedTuple):
    """What a person has decided. `data` is what they were shown, as they changed it; `message` may be empty."""

    approved: bool
    data: Any
    message: str


class Accepted(NamedTuple):
    """Which credentials a pin takes."""

    providers: tuple[str, ...]
    types: tuple[str, ...]


class File(NamedTuple):
    """A file with all that is in it."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """A credential, opened for one node run. `secret` has `api_key`; `username` and `password`; `headers`; or
    `access_token` and what else came with it. Whatever of it a block puts out or says is redacted."""

    provider: str
    type: str
    host: str | None
    secret: Mapping[str, Any] = field(repr=False)


def basic(username: str, password: str) -> str:
    """What follows `Basic` in a header."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


class Outside:
    """What there is for a block that is tried out alone; in a run there is execution/outside.py."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def review(self, payload: Any, instructions: str, editable: bool) -> Review:
        """Wait until a person has looked at `payload`. At most one review for each node run."""
        raise BlockError("Nobody can be asked for a review here: use the block in an agent.")

    def call(
        self, graph_id: str, version: int, inputs: dict[str, Any], masks: Masks | None
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Run another agent: its outputs as they come, by name. `masks` are values for its nodes, by id and pin.

        Raises BlockError if it is not there or fails.
        """
        raise BlockError("No agent can be run from here: use the block in an agent.")

    async def keep(self, key: str, value: Any, *, across_agents: bool) -> None:
        """Keep a value beyond the run, once for each node run. Tried out alone, nothing is kept."""

    async def recall(self, key: str, *, across_agents: bool) -> Any:
        """The value that was kept; None if there is none."""
        return None

    async def credentials(self, reference: Mapping[str, Any], accepted: Accepted) -> Credentials:
        """Open the credential that a pin refers to. Raises BlockError if it is not there or not of an accepted kind."""
        raise BlockError("No credentials can be used here: use the block in an agent.")

    async def find_file(self, uri: str) -> None:
        """Raises BlockError if there is no such file."""
        raise BlockError("No files can be used here: use the block in an agent.")

    async def open_file(self, uri: str) -> File:
        """A file of the user who runs the agent. Raises BlockError if it is not there, or too large to be held."""
        raise BlockError("No files can be used here: use the block in an agent.")

    async def store_file(self, file: File) -> str:
        """Keep a file among those of the user. Returns its URI: the same, if the node run is repeated."""
        raise BlockError("No files can be kept here: use the block in an agent.")
