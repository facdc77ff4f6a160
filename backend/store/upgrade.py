"""Brings a database to the schema of this code: `python -m backend.store.upgrade`."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import asyncpg

from backend.settings import SettingError, Settings
from backend.store.address import database_address

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = max(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


class SchemaTooNew(Exception):
    """The database was migrated by newer code than this; running on would corrupt it."""


async def schema_version(connection: asyncpg.Connection) -> str | None:
    """The migration the database stands at; None for an empty one."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    return await connection.fetchval("SELECT version_num FROM alembic_version")


async def ensure_newest(dsn: str, connection: asyncpg.Connection) -> None:
    """Migrate the database if it is behind this code. Costs one query when there is nothing to do."""
    version = await schema_version(connection)
    if version is not None and version > NEWEST:
        raise SchemaTooNew(
            f"the database is at schema {version}, this code knows {NEWEST}:"
            " run the newer code, or use another database."
        )
    if version != NEWEST:
        await asyncio.to_thread(upgrade, dsn)


def upgrade(dsn: str) -> None:
    """Run the migrations that are due; concurrent callers wait for one another."""
    from alembic import command, config  # noqa: PLC0415  (heavy, and needed once per release)

    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connect"] = partial(asyncpg.connect, dsn)
    command.upgrade(settings, "head")


def main() -> int:
    try:
        dsn = database_address(Settings.load())
        upgrade(dsn)
    except (SettingError, OSError, asyncpg.PostgresError) as error:
        print(f"cannot migrate the database: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"The database is at schema {NEWEST}.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
