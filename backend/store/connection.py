"""Opens the database for a process: waits until it is there, migrates it if that is due, gives a pool."""

from __future__ import annotations

import asyncio
import logging
import time

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from backend.settings import Settings
from backend.store.address import database_address
from backend.store.session import SESSION, open_session
from backend.store.upgrade import ensure_newest

Pool = asyncpg.Pool
Queryable = asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy


log = logging.getLogger(__name__)

# Seconds. The bundled database starts beside us and may have to be made first; an external one is there or it is not.
WAIT_FOR_BUNDLED = 60.0
WAIT_FOR_EXTERNAL = 5.0
TELL_AFTER = 3.0
RETRY_EVERY = 0.02

NOT_YET = (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError)

# The database is away, full, shutting down, or chose us as the victim of a deadlock: it will take the same batch later.
PASSING = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # PostgreSQL has said why it ends the connection, and not yet ended it
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)


class DatabaseUnreachable(Exception):
    """The database did not answer; the message says where it was looked for and what to do."""


async def connect(dsn: str) -> asyncpg.Connection:
    """One connection of its own. JSON columns come and go as Python values."""
    connection = await open_session(dsn)
    await _use_json(connection)
    return connection


async def open_pool(settings: Settings, *, size: int = 10) -> Pool:
    """A pool on a database that is at the schema of this code. Raises DatabaseUnreachable, SchemaTooNew."""
    dsn = database_address(settings)
    first = await _first_connection(dsn, bundled=settings.database_url is None)
    try:
        await ensure_newest(dsn, first)
    finally:
        await first.close()
    return await asyncpg.create_pool(
        dsn, min_size=1, max_size=size, init=_use_json, reset=_nothing_to_reset, **SESSION
    )  # fmt: skip


async def _first_connection(dsn: str, *, bundled: bool) -> asyncpg.Connection:
    began = time.monotonic()
    patience = WAIT_FOR_BUNDLED if bundled else WAIT_FOR_EXTERNAL
    told = False
    while True:
        try:
            return await open_session(dsn)
        except NOT_YET as error:
            waited = time.monotonic() - began
            if waited > patience:
                raise DatabaseUnreachable(_unreachable(error, bundled=bundled)) from error
            if waited > TELL_AFTER and not told:
                told = True
                log.warning("still waiting: %s", _unreachable(error, bundled=bundled))
        except (asyncpg.PostgresError, ValueError) as error:
            raise DatabaseUnreachable(f"DATABASE_URL does not work: {error}.") from error
        await asyncio.sleep(RETRY_EVERY)


def _unreachable(error: Exception, *, bundled: bool) -> str:
    reason = str(error) or "it took too long"
    if bundled:
        return f"the bundled PostgreSQL did not answer ({reason}): start it with `python -m backend.database`."
    return f"the PostgreSQL of DATABASE_URL did not answer ({reason}): start it, or correct DATABASE_URL."


async def _use_json(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )


async def _nothing_to_reset(_: asyncpg.Connection) -> None:
    """Our statements leave no state in a session; asyncpg's own reset would cost a round trip each time."""
