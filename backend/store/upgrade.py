"""Brings a database to the schema of this code: `python -m backend.store.upgrade`.

A process that finds a migration due runs it apart: what migrates takes half a second to import, and 30 MB for good.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import asyncpg

from backend.settings import SettingError, Settings
from backend.store.address import database_address
from backend.store.session import open_session

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = max(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


# Any number: held during a migration, so that processes that start together do not migrate twice.
MIGRATION_LOCK = 7_046_029


# To the process that migrates: the address, which may hold a password, and so is no argument.
ADDRESS = "MIGRATE_DATABASE"


class MigrationFailed(Exception):
    """The database could not be brought to the schema of this code. The message is the reason."""


class SchemaTooNew(Exception):
    """The database was migrated by newer code than this; running on would corrupt it."""


async def schema_version(connection: asyncpg.Connection) -> str | None:
    """The migration the database stands at; None for an empty one."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    return await connection.fetchval("SELECT version_num FROM alembic_version")


async def ensure_newest(dsn: str, connection: asyncpg.Connection) -> None:
    """Migrate the database if it is behind this code. Costs one query when it is not.

    Of processes that start together one migrates, and the others wait for it.
    """
    if await _is_newest(connection):
        return
    await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    try:
        if not await _is_newest(connection):
            await _upgrade_apart(dsn)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)


async def _is_newest(connection: asyncpg.Connection) -> bool:
    version = await schema_version(connection)
    if version is not None and version > NEWEST:
        raise SchemaTooNew(
            f"the database is at schema {version}, this code knows {NEWEST}:"
            " run the newer code, or use another database."
        )
    return version == NEWEST


async def _upgrade_apart(dsn: str) -> None:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from backend.store.upgrade import upgrade_or_say_why as upgrade; upgrade()"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), ADDRESS: dsn},
    )
    _, said = await process.communicate()
    if process.returncode:
        reason = said.decode(errors="replace").strip().rpartition("\n")[2] or f"status {process.returncode}"
        raise MigrationFailed(f"the database cannot be brought to schema {NEWEST}: {reason}")


def upgrade_or_say_why() -> None:
    """What the process that migrates does."""
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    try:
        upgrade(os.environ[ADDRESS])
    except TimeoutError as error:
        sys.exit(str(error))
    except DBAPIError as error:
        if error.orig is None or not isinstance(error.orig.__cause__, asyncpg.PostgresError):
            raise
        sys.exit(error.orig.__cause__.args[0])


def upgrade(dsn: str) -> None:
    """Run the migrations that are due."""
    from alembic import command, config  # noqa: PLC0415  (heavy, and needed once per release)

    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connect"] = partial(open_session, dsn)
    command.upgrade(settings, "head")


async def main() -> int:
    try:
        dsn = database_address(Settings.load())
        connection = await open_session(dsn)
        await ensure_newest(dsn, connection)
        await connection.close()
    except (SettingError, SchemaTooNew, MigrationFailed, OSError, asyncpg.PostgresError) as error:
        print(f"cannot migrate the database: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"The database is at schema {NEWEST}.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
