"""What takes room in the database: `python -m backend.store.size`, with `--json` for programs.

Looks at the catalogue and at samples only, so that it takes no longer when there are millions of runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

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

# What there is of a run: table, the column that names the run, and the one that may be large.
PARTS = [("runs", "id", "inputs"), ("run_events", "run_id", "data"), ("run_values", "run_id", "value")]

# The sizes are those on disk: what is stored compressed is not unpacked. A row has about 60 bytes besides.
BY_AGENT = """
    WITH run AS (
        SELECT {run} AS id, count(*) AS rows, sum(pg_column_size({column}) + 60) AS size
        FROM {table} TABLESAMPLE SYSTEM ($1) GROUP BY {run}
    )
    SELECT graph_id AS agent, sum(run.rows)::bigint AS rows, sum(size)::bigint AS size
    FROM run JOIN runs USING (id) GROUP BY graph_id
"""

NAMES = "SELECT DISTINCT ON (id) id, name FROM graphs WHERE id = ANY($1::uuid[]) ORDER BY id, version DESC"

DATABASE = "SELECT pg_database_size(current_database())"


async def size_of(connection: Queryable) -> Size:
    """Raises CannotTell for a database that is not this server's."""
    tables: dict[str, TableSize] = {}
    percent: dict[str, float] = {}
    for name, *sizes, share in await connection.fetch(TABLES, SAMPLE):
        sampled = await connection.fetchval(f"SELECT count(*) FROM {name} TABLESAMPLE SYSTEM ($1)", share)
        tables[name] = TableSize(name, round(sampled * 100 / share), *sizes)
        percent[name] = share
    if not all(table in tables for table, *_ in PARTS):
        raise CannotTell("This database has no tables of this server yet: a server makes them when it starts.")
    agents = await _agents(connection, tables, percent)
    return Size(await connection.fetchval(DATABASE), list(tables.values()), agents)


async def _agents(
    connection: Queryable, tables: Mapping[str, TableSize], percent: Mapping[str, float]
) -> list[AgentSize]:
    """Each table is shared out as its sample is."""
    sizes, runs = Counter[UUID](), dict[UUID, int]()
    for table, run, column in PARTS:
        found = await connection.fetch(BY_AGENT.format(table=table, run=run, column=column), percent[table])
        sampled = sum(row["size"] for row in found)
        for agent, rows, size in found:
            sizes[agent] += round(tables[table].bytes * size / sampled)
            if table == "runs":
                runs[agent] = round(rows * 100 / percent[table])
    largest = sizes.most_common(TOP)
    names = {row["id"]: row["name"] for row in await connection.fetch(NAMES, [agent for agent, _ in largest])}
    return [AgentSize(str(agent), names.get(agent, ""), runs.get(agent, 0), size) for agent, size in largest]


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
