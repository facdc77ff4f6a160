"""What takes room in the database: `python -m backend.store.size`, with `--json` for programs.

Looks at the catalogue and at samples only, so that it takes no longer when there are millions of runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import asyncpg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.settings import SettingError, Settings
from backend.store.address import database_address
from backend.store.connection import Queryable
from backend.store.session import open_session

# Pages of a table that are read at most: 8 MB.
SAMPLE = 1000
# Agents that are shown.
TOP = 10


class CannotTell(Exception):
    """There is nothing to look at. The message is one sentence that says what to do."""


@dataclass(frozen=True, slots=True)
class TableSize:
    """`rows` is an estimate if there are many. All others are bytes; `bytes` is everything, with indexes and TOAST."""

    name: str
    rows: int
    bytes: int
    indexes: int
    toast: int


@dataclass(frozen=True, slots=True)
class AgentSize:
    """What the runs of an agent take, with their events: estimates if there are many."""

    id: str
    name: str
    runs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Size:
    """`bytes` is the whole database, with what PostgreSQL keeps for itself."""

    bytes: int
    tables: list[TableSize]
    agents: list[AgentSize]


TABLES = """
    SELECT quote_ident(relname) AS name, pg_total_relation_size(oid) AS bytes, pg_indexes_size(oid) AS indexes,
        coalesce(pg_total_relation_size(nullif(reltoastrelid, 0)), 0) AS toast,
        least(100, 100 * $1 / greatest(1, pg_relation_size(oid) / current_setting('block_size')::float8)) AS percent
    FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY bytes DESC, name
"""

# The sizes are those on disk: what is stored compressed is not unpacked. A row has about 60 bytes besides.
AGENTS = """
    WITH event AS (
        SELECT run_id, sum(pg_column_size(data) + 60) AS size FROM run_events TABLESAMPLE SYSTEM ($1) GROUP BY run_id
    ), sampled AS (
        SELECT graph_id, 0 AS runs, sum(size) AS events, 0 AS rows FROM event JOIN runs ON id = run_id GROUP BY graph_id
        UNION ALL
        SELECT graph_id, count(*), 0, sum(pg_column_size(inputs) + 120) FROM runs TABLESAMPLE SYSTEM ($2)
        GROUP BY graph_id
    ), share AS (
        SELECT graph_id,
            sum(runs) / nullif(sum(sum(runs)) OVER (), 0) AS of_runs,
            sum(events) / nullif(sum(sum(events)) OVER (), 0) AS of_events,
            sum(rows) / nullif(sum(sum(rows)) OVER (), 0) AS of_rows
        FROM sampled GROUP BY graph_id
    )
    SELECT graph_id AS id, (SELECT name FROM graphs WHERE id = graph_id ORDER BY version DESC LIMIT 1) AS name,
        round(coalesce(of_runs, 0) * $3)::bigint AS runs,
        round(coalesce(of_events, 0) * $4 + coalesce(of_rows, 0) * $5)::bigint AS bytes
    FROM share ORDER BY bytes DESC, name LIMIT $6
"""


DATABASE = "SELECT pg_database_size(current_database())"


async def size_of(connection: Queryable) -> Size:
    """Raises CannotTell for a database that is not this server's."""
    found = await connection.fetch(TABLES, SAMPLE)
    percent = {row["name"]: row["percent"] for row in found}
    if "run_events" not in percent:
        raise CannotTell("This database has no tables of this server yet: a server makes them when it starts.")
    tables: dict[str, TableSize] = {}
    for name, *sizes, share in found:
        sampled = await connection.fetchval(f"SELECT count(*) FROM {name} TABLESAMPLE SYSTEM ($1)", share)
        tables[name] = TableSize(name, round(sampled * 100 / share), *sizes)
    events, runs = tables["run_events"], tables["runs"]
    largest = await connection.fetch(
        AGENTS, percent["run_events"], percent["runs"], runs.rows, events.bytes, runs.bytes, TOP
    )
    agents = [AgentSize(str(id), name, count, bytes) for id, name, count, bytes in largest]
    return Size(await connection.fetchval(DATABASE), list(tables.values()), agents)


async def look() -> Size:
    """Raises CannotTell if there is no database that answers."""
    settings = Settings.load()
    try:
        connection = await open_session(database_address(settings))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CannotTell(_unreachable(settings, error)) from error
    try:
        return await size_of(connection)
    finally:
        await connection.close()


def _unreachable(settings: Settings, error: Exception) -> str:
    if settings.database_url:
        return f"The PostgreSQL of DATABASE_URL cannot be asked: {str(error) or 'it does not answer'}."
    return f"No database runs in {settings.data_dir.absolute()}: start it with `invoke dev`."


def show(size: Size) -> None:
    """Tables for a person."""
    console = Console(highlight=False)
    tables = _table("table", "rows, about", "size", "of it indexes", "of it TOAST")
    for each in size.tables:
        sizes = map(_megabytes, (each.bytes, each.indexes, each.toast))
        tables.add_row(each.name, f"{each.rows:,}", *sizes)
    tables.add_row("the whole database", "", _megabytes(size.bytes))
    console.print(tables)
    agents = _table("the agents with the largest runs", "runs, about", "size, about")
    for each in size.agents:
        agents.add_row(Text(f"{each.name or 'without a name'} ({each.id})"), f"{each.runs:,}", _megabytes(each.bytes))
    if size.agents:
        console.print(agents)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for other in others:
        table.add_column(other, justify="right")
    return table


def _megabytes(bytes: int) -> str:
    return f"{bytes / 1_000_000:,.1f} MB"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.store.size", description="Say what takes room.")
    parser.add_argument("--json", action="store_true", help="for programs")
    as_json: bool = parser.parse_args(arguments).json
    try:
        size = asyncio.run(look())
    except (SettingError, CannotTell) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(asdict(size), indent=2) + "\n")
    else:
        show(size)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
