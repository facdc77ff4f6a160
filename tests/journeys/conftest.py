"""Gives the journeys a web service to talk to, and a look into the database of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.execution.engine import engine
from tests.journeys.stub import Stub

__all__ = ["engine"]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server, server.answering():
        yield server
