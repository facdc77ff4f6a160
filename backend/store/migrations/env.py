"""How Alembic reaches the database: over asyncpg, and with every table to itself."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

# Milliseconds that others wait for tables that are not all to be had; after a second PostgreSQL would look for
# deadlocks, and fail one of those who wait.
AT_ONCE = 300
# Seconds between tries, and until there is no more of them.
RETRY_EVERY = 0.1
PATIENCE = 60

QUERY_CANCELED = "57014"
TABLES = """
    SELECT string_agg(quote_ident(tablename), ', ' ORDER BY tablename DESC) FROM pg_tables
    WHERE schemaname = current_schema() AND pg_has_role(tableowner, 'USAGE')
"""


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        if tables := connection.scalar(text(TABLES)):
            _lock(connection, tables)
        context.run_migrations()
    connection.commit()


def _lock(connection: Connection, tables: str) -> None:
    """Take the tables all at once or not at all: taken one by one, as they are changed, they make a deadlock with
    statements that take them in another order."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            with connection.begin_nested():
                connection.execute(text(f"SET LOCAL statement_timeout = {AT_ONCE}"))
                connection.execute(text(f"LOCK TABLE {tables}"))
                connection.execute(text("SET LOCAL statement_timeout TO DEFAULT"))
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != QUERY_CANCELED:
                raise
            if time.monotonic() > give_up_at:
                raise TimeoutError(
                    f"some table was in use at every try for {PATIENCE} s:"
                    " wait for what uses it (a backup, a report, VACUUM) to end, or end it."
                ) from None
        time.sleep(RETRY_EVERY)


async def main() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=context.config.attributes["connect"]
    )
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
