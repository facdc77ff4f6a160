"""What tests share: one PostgreSQL per session, one database per test, free ports, the agent files."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import structlog

from backend.store import bundled
from backend.store.upgrade import upgrade

SHARED_AGENTS = Path(__file__).parents[2] / "shared" / "agents"


@pytest.fixture(autouse=True)
def _short_logs() -> None:
    """Without this a failure is drawn with all variables, however large."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that lives as long as the session (with pytest-xdist: as the worker)."""
    data_dir = tmp_path_factory.mktemp("postgres")
    server = bundled.Bundled(data_dir, durable=False)
    server.start()
    yield bundled.dsn(data_dir)
    server.stop()


@pytest.fixture(scope="session")
def migrated_template(postgres: str) -> str:
    execute(postgres, "CREATE DATABASE migrated")
    upgrade(of_database(postgres, "migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    return (f"test_{number}" for number in itertools.count())


@pytest.fixture
def database_url(postgres: str, migrated_template: str, database_names: Iterator[str]) -> str:
    """Address of a database of this test alone, migrated and empty. It goes away with the server."""
    name = next(database_names)
    execute(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    return of_database(postgres, name)


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port nobody listens on, as good as surely another one at each call."""

    def choose() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return choose


@pytest.fixture(scope="session")
def shared_agents() -> Path:
    """Agent files as upstream exports them; they lie beside the checkout, if at all."""
    if not SHARED_AGENTS.is_dir():
        pytest.skip(f"there are no agent files in {SHARED_AGENTS}")
    return SHARED_AGENTS
