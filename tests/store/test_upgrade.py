"""Migrations: run when they are due, once, whoever comes first."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from alembic import command, config

from backend.settings import Settings
from backend.store import graphs, queue, reviews, runs, statistics
from backend.store.connection import DatabaseUnreachable, open_pool
from backend.store.identifiers import new_id
from backend.store.upgrade import MIGRATIONS, NEWEST, MigrationFailed, SchemaTooNew, schema_version, upgrade
from backend.store.users import DEFAULT_USER


@pytest.fixture
async def empty_database(postgres: str) -> str:
    connection = await asyncpg.connect(postgres)
    await connection.execute("DROP DATABASE IF EXISTS empty_database")
    await connection.execute("CREATE DATABASE empty_database")
    await connection.close()
    return postgres.replace("/postgres?", "/empty_database?")


async def test_processes_that_start_together_on_an_empty_database_migrate_it_once(empty_database: str):
    command = [sys.executable, "-m", "backend.store.upgrade"]
    environment = os.environ | {"DATABASE_URL": empty_database}
    started = [await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE) for _ in range(3)]
    said = [(await process.communicate())[0].decode() for process in started]
    assert said == [f"The database is at schema {NEWEST}.\n"] * 3
    connection = await asyncpg.connect(empty_database)
    assert await schema_version(connection) == NEWEST
    await connection.close()


async def test_graphs_stored_with_others_in_them_become_rows_of_their_own(empty_database: str):
    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connect"] = partial(asyncpg.connect, empty_database)
    await asyncio.to_thread(command.upgrade, settings, "0001")
    connection = await asyncpg.connect(empty_database)
    lowest = {"id": str(uuid4()), "version": 3, "name": "lowest", "nodes": [], "sub_graphs": []}
    below = {"id": str(uuid4()), "version": 6, "name": "below", "nodes": [], "sub_graphs": [lowest]}
    for document in ({"nodes": []}, {"nodes": [], "sub_graphs": [below]}):
        await connection.execute(
            "INSERT INTO graphs VALUES ($1, 1, true, 'top', $2)", uuid4(), json.dumps(document)
        )  # fmt: skip
    await asyncio.to_thread(upgrade, empty_database)
    rows = await connection.fetch("SELECT name, version, is_active FROM graphs WHERE included_in IS NOT NULL")
    assert sorted(map(tuple, rows)) == [("below", 6, True), ("lowest", 3, True)]
    await asyncio.to_thread(command.downgrade, settings, "0005")
    for text in ("does", "a\0b"):
        document = json.dumps({"nodes": [], "description": text})
        await connection.execute(
            "INSERT INTO graphs (id, version, name, document, created_at) VALUES ($1, 1, '', $2, '2025-01-01')",
            uuid4(),
            document,
        )
    await asyncio.to_thread(upgrade, empty_database)
    described = await connection.fetch("SELECT description FROM graphs WHERE first_at = '2025-01-01' ORDER BY 1")
    assert [row["description"] for row in described] == ["", "does"]
    await connection.execute("DELETE FROM graphs WHERE first_at = '2025-01-01'")
    await asyncio.to_thread(command.downgrade, settings, "0001")
    assert await connection.fetchval("SELECT count(*) FROM graphs") == 2
    await connection.close()


async def test_code_older_than_the_database_refuses_to_run_on_it(database_url: str):
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    with pytest.raises(SchemaTooNew, match=f"schema 9999, this code knows {NEWEST}"):
        await open_pool(Settings(database_url=database_url))


async def test_code_at_work_goes_on_reading_rows_that_get_another_column(database_url: str):
    async with await open_pool(Settings(database_url=database_url), size=1) as pool:
        graph = await graphs.insert(pool, uuid4(), 1, "graph", {"nodes": []})
        await runs.insert(pool, new_id(), graph.id, 1, {})
        [run] = await queue.claim(pool, uuid4(), 1)
        await reviews.insert(pool, run, uuid4(), 1, "node", None, "", False)

        async def read() -> list[object]:
            async with pool.acquire() as connection, connection.transaction():
                return [
                    await reviews.of_run(connection, run.id),
                    await runs.get(connection, run.id),
                    await runs.get_many(connection, [run.id]),
                    await runs.page(connection, DEFAULT_USER, limit=1),
                    await statistics.get_counted(connection, run.id),
                    await graphs.get_kept(connection, DEFAULT_USER, graph.id),
                ]

        before = await read()
        for table in ("graphs", "runs", "reviews"):
            await pool.execute(f"ALTER TABLE {table} ADD COLUMN colour text NOT NULL DEFAULT 'blue'")
        assert await read() == before


async def test_a_migration_fails_nobody_who_takes_the_tables_in_another_order(empty_database: str):
    settings = config.Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    settings.attributes["connect"] = partial(asyncpg.connect, empty_database)
    await asyncio.to_thread(command.upgrade, settings, "0010")
    at_work, watching = [await asyncpg.connect(empty_database) for _ in range(2)]
    async with at_work.transaction():
        await at_work.execute("SELECT FROM runs")
        migration = asyncio.create_task(asyncio.to_thread(upgrade, empty_database))
        while not await watching.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            assert not migration.done()
        for table in ("webhooks", "users", "graphs"):
            await at_work.execute(f"UPDATE {table} SET created_at = created_at")
    await migration
    assert await schema_version(watching) == NEWEST
    await asyncio.gather(at_work.close(), watching.close())


async def test_a_database_that_may_not_be_changed_is_one_sentence(empty_database: str):
    connection = await asyncpg.connect(empty_database)
    await connection.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    await connection.close()
    address = empty_database.replace("postgres@", "reader@")
    with pytest.raises(MigrationFailed, match=f"brought to schema {NEWEST}: permission denied for schema public$"):
        await open_pool(Settings(database_url=address))


async def test_an_address_that_no_database_answers_is_one_sentence(free_port, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backend.store.connection.WAIT_FOR_EXTERNAL", 0.1)
    with pytest.raises(DatabaseUnreachable, match="start it, or correct DATABASE_URL"):
        await open_pool(Settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none"))


async def test_a_wrong_database_name_is_told_without_waiting(postgres: str):
    with pytest.raises(DatabaseUnreachable, match='DATABASE_URL does not work: database "missing" does not exist'):
        await open_pool(Settings(database_url=postgres.replace("/postgres?", "/missing?")))
