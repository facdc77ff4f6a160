"""Several machines around one PostgreSQL, of which one is cut off: nobody is told, it is just silent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from backend.store import bundled
from backend.store.session import open_session
from tests.databases import execute
from tests.execution.engine import Engine, assert_gap_free
from tests.journeys.environment import PATIENCE, ROOT, Environment, settings_for, started, until
from tests.journeys.machines import Machine, NoNetworks, Switch
from tests.journeys.stub import Stub, requests_one_by_one

Start = Callable[[Machine, str], AbstractContextManager[subprocess.Popen[bytes]]]

RUNS = 4

EXECUTORS_ALIVE = "SELECT count(*) FROM executors WHERE heartbeat_at > now() - make_interval(secs => 2.5)"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE host(client_addr) = $1"
LISTENS = f"{SESSIONS} AND query ~ '^LISTEN'"


@dataclass
class Network:
    """A switch, and at it a machine with PostgreSQL."""

    switch: Switch
    # The address of the database for this test, which is no machine at the switch, and for those that are.
    here: str
    there: str


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            switch = stack.enter_context(Switch())
            machine = switch.machine()
        except NoNetworks as error:
            pytest.skip(str(error))
        monkeypatch.setitem(bundled.SETTINGS, "listen_addresses", "*")
        server = bundled.Bundled(tmp_path, tell=lambda _: None, durable=False)
        machine.do(server.start)
        stack.callback(server.stop)
        with (server.cluster / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all scram-sha-256\n")
        here = bundled.dsn(tmp_path)
        execute(here, "ALTER USER postgres PASSWORD 'secret'", "SELECT pg_reload_conf()")
        yield Network(switch, here, f"postgresql://postgres:secret@{machine.address}/postgres")


@pytest.fixture
def database_url(network: Network) -> str:
    """For the engine, which looks on."""
    return network.here


@pytest.fixture
def front(network: Network) -> Machine:
    """The machine that users, and blocks, talk to."""
    return network.switch.machine()


@pytest.fixture
def settings(network: Network, front: Machine, tmp_path: Path, free_port: Callable[[], int]) -> dict[str, str]:
    return settings_for(tmp_path, free_port, DATABASE_URL=network.there, TRUSTED_HOSTS=front.address)


@pytest.fixture
def start(settings: dict[str, str]) -> Start:
    """`with start(machine, "executor"):` a process of the server on a machine."""

    @contextmanager
    def started(machine: Machine, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with machine.do(subprocess.Popen, [sys.executable, "-m", f"backend.{name}"], cwd=ROOT, env=settings) as process:
            try:
                yield process
            finally:
                process.terminate()

    return started


async def test_runs_of_a_machine_that_is_cut_off_go_on_elsewhere_and_it_writes_nothing_to_them_when_it_is_back(
    engine: Engine, network: Network, front: Machine, start: Start, settings: dict[str, str]
):
    cut_off, other = network.switch.machine(), network.switch.machine()
    with front.do(Stub, front.address) as stub, stub.answering(), serving(front, settings) as rest:
        stub.gate.clear()
        graph = front.do(rest.post, "/api/v2/graphs", requests_one_by_one(stub))

        def begin() -> UUID:
            run = front.do(rest.post, f"/api/v2/graphs/{graph['id']}/runs", {"inputs": {"items": [1, 2]}})
            return UUID(run["id"])

        with start(front, "scheduler"), start(cut_off, "executor"):
            run_ids = [begin() for _ in range(RUNS)]
            until(lambda: len(stub.received) == 2 * RUNS)
            with start(other, "executor"):
                await seen(2, engine, EXECUTORS_ALIVE)
                network.switch.unplug(cut_off)
                stub.gate.set()
                ends = [await engine.end_of(run_id) for run_id in run_ids]
            events = [await engine.events(run_id) for run_id in run_ids]
            await seen(0, engine, SESSIONS, cut_off.address)
            network.switch.plug(cut_off)
            await seen(1, engine, LISTENS, cut_off.address)
            run, _ = await engine.end_of(begin())
    assert (run.status, run.attempt) == ("COMPLETED", 1)
    for run, history in ends:
        assert (run.status, run.attempt, history.outputs) == ("COMPLETED", 2, {"answers": [{"ok": True}] * 2})
    assert [await engine.events(run_id) for run_id in run_ids] == events
    for of_one in events:
        assert_gap_free(of_one)
        assert [event.type for event in of_one].count("run.rescued") == 1


def test_a_machine_that_is_cut_off_within_a_transaction_holds_no_locks_and_notices(network: Network):
    machine = network.switch.machine()
    execute(network.here, "CREATE TABLE things AS SELECT 1 AS n")
    locked = threading.Event()

    async def lock() -> None:
        lost = asyncio.Event()
        connection = await open_session(network.there)
        connection.add_termination_listener(lambda _: lost.set())
        async with connection.transaction():
            await connection.execute("SELECT FROM things FOR UPDATE")
            locked.set()
            await lost.wait()

    locking = machine.begin(asyncio.run, lock())
    assert locked.wait(PATIENCE)
    network.switch.unplug(machine)
    execute(network.here, f"SET statement_timeout = '{PATIENCE} s'", "UPDATE things SET n = 2")
    with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
        locking.result(PATIENCE)


async def seen(count: int, engine: Engine, query: str, *arguments: object) -> None:
    """Wait for what the database tells nobody of."""
    async with asyncio.timeout(PATIENCE):
        while await engine.pool.fetchval(query, *arguments) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@contextmanager
def serving(machine: Machine, variables: dict[str, str]) -> Iterator[Environment]:
    server = started(variables, sys.executable, "-m", "backend.rest")
    try:
        yield machine.do(server.__enter__)
    finally:
        server.__exit__(None, None, None)
