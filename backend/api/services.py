"""What the operations of the API work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from backend.api.authentication import Keys
from backend.api.metrics import Metrics
from backend.settings import Settings
from backend.store.connection import Pool
from backend.store.feed import Feed


@dataclass(frozen=True, slots=True)
class Services:
    """Of one app; lives as long as it."""

    settings: Settings
    database: Pool
    feed: Feed
    metrics: Metrics
    keys: Keys


async def _services(connection: HTTPConnection) -> Services:
    return connection.app.state.services


Use = Annotated[Services, Depends(_services)]
