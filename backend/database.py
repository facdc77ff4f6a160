"""The Procfile's `db` line: the bundled PostgreSQL, or nothing to do where DATABASE_URL names another one."""

from __future__ import annotations

import logging
import sys
import threading

from backend.app import run_processes
from backend.process.process import AppProcess
from backend.process.sockets import keep, kept
from backend.settings import Settings, take_flags
from backend.store.bundled import TO_CLIENTS, Bundled, DatabaseError

log = logging.getLogger("postgres")

LEVELS = {"WARNING": logging.WARNING, "ERROR": logging.ERROR, "FATAL": logging.ERROR, "PANIC": logging.CRITICAL}


# What keeps PostgreSQL running: the supervisor holds it, too.
LINKS = ("life", "log", "lock")


class Database(AppProcess):
    """Starts the server of DATA_DIR and ends with it."""

    name = "db"
    overlap = False
    _server: Bundled | None = None
    _is_kept = False

    def run(self) -> None:
        settings = Settings.load()
        if settings.database_url:
            self.ready()
            threading.Event().wait()
        self._server = Bundled(settings.data_dir, tell)
        links = {name: descriptor for name in LINKS if (descriptor := kept(f"postgres={name}")) is not None}
        if len(links) < len(LINKS) or not self._server.adopt(links):
            self._server.start()
        for name, descriptor in self._server.links().items():
            self._is_kept = keep(f"postgres={name}", descriptor)
        self.ready()
        status = self._server.wait()
        shown = "" if status is None else f" with status {status}"
        raise DatabaseError(f"PostgreSQL ended by itself{shown}: the lines above tell why.")

    def cleanup(self) -> None:
        if self._server and self.has_successor and self._is_kept:
            self._server.leave()  # nobody loses a connection for an edit
        elif self._server:
            self._server.stop()


def tell(line: str) -> None:
    """Log a line of PostgreSQL's at its own level."""
    kind, _, text = line.partition(":")
    level = logging.DEBUG if text.strip().startswith(TO_CLIENTS) else LEVELS.get(kind, logging.INFO)
    log.log(level, text.strip() or line)


def main() -> int:
    return run_processes(Database())


if __name__ == "__main__":
    take_flags("database", sys.argv[1:])
    sys.exit(main())
