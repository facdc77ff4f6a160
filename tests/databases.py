"""Databases for tests: a few that are emptied and used again, as to make one takes longer than most tests."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import asyncpg

# Databases beside the one of the test at work, so that none has to wait for its own to be emptied.
SPARE = 2

# Bytes of rows, with those that are deleted: above, new files are made, which takes ten times longer.
LARGE = 1 << 20

# Whatever still uses it is cut off: a process that a test has killed, say.
CUT_OFF = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# All that a migration, or a test, can have changed but for rows.
SHAPE = """
SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
    SELECT format('%s %s %s', attrelid, attnum, xmin) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_trigger
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT format('%s %s', oid, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting JOIN pg_database ON pg_database.oid = setdatabase
        WHERE datname = current_database()
) AS shape (part)
"""
USED = """
SELECT coalesce(array_agg(oid::regclass::text), '{}'), coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
    AND pg_relation_size(oid) > 0
"""


def execute(dsn: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def of_database(dsn: str, name: str) -> str:
    """The address of another database of the same server."""
    return dsn.replace("/postgres?", f"/{name}?")


class Databases:
    """Copies of a template, on one server."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._new = asyncio.run(_look(of_database(server, template)))
        self._names = (f"test_{number}" for number in itertools.count())
        # Those that were used, in the order in which they are emptied: with None for one that cannot be.
        self._used: deque[Future[str | None]] = deque()
        self._emptier = ThreadPoolExecutor(1, thread_name_prefix="emptier")

    def take(self) -> str:
        """The address of one that is migrated and empty."""
        dsn = self._used.popleft().result() if len(self._used) >= SPARE else None
        return dsn or self._make()

    def give_back(self, dsn: str) -> None:
        self._used.append(self._emptier.submit(self._empty, dsn))

    def close(self) -> None:
        self._emptier.shutdown()

    def _make(self) -> str:
        name = next(self._names)
        execute(self._server, f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return of_database(self._server, name)

    def _empty(self, dsn: str) -> str | None:
        try:
            return dsn if asyncio.run(_empty(dsn, self._new)) else None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # whatever was done to it
            return None


class New(NamedTuple):
    """What a new database is like."""

    shape: str
    # By table.
    rows: dict[str, str]


async def _look(dsn: str) -> New:
    connection = await asyncpg.connect(dsn)
    try:
        tables, _ = await connection.fetchrow(USED)
        rows = {table: await connection.fetchval(f"SELECT json_agg({table}) FROM {table}") for table in tables}
        return New(await connection.fetchval(SHAPE), rows)
    finally:
        await connection.close()


async def _empty(dsn: str, new: New) -> bool:
    """Make it a new one again; False if it differs in more than rows."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=20)
    try:
        await connection.execute(CUT_OFF)
        if await connection.fetchval(SHAPE) != new.shape:
            return False
        tables, size = await connection.fetchrow(USED)
        if size > LARGE:
            await connection.execute(f"TRUNCATE {', '.join(tables)} CASCADE")
        await connection.execute("SET session_replication_role = replica")  # in any order, and without triggers
        await connection.execute(";".join(f"DELETE FROM {table}" for table in tables))
        for table, rows in new.rows.items():
            filled = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1)"
            await connection.execute(filled, rows)
        return True
    finally:
        await connection.close()
