"""What tests share: one PostgreSQL per session, one database per test, free ports, the agent files."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from backend.store import bundled
from backend.store.upgrade import upgrade
from tests.databases import Databases, execute, of_database

SHARED_AGENTS = Path(__file__).parents[2] / "shared" / "agents"


@pytest.fixture(autouse=True)
def _short_logs() -> None:
    """Without this a failure is drawn with all variables, however large."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


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
def databases(postgres: str, migrated_template: str) -> Iterator[Databases]:
    found = Databases(postgres, migrated_template)
    yield found
    found.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """Address of a database of this test alone, migrated and empty."""
    dsn = databases.take()
    yield dsn
    databases.give_back(dsn)


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
