"""What there is to do to a running server and its database: `python -m backend.control status|stop|reset|shell`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime

from backend.process.process import State
from backend.process.status import Status, read
from backend.settings import SettingError, Settings
from backend.store import bundled
from backend.store.address import database_address

# What `python -m backend` calls itself: the process that ends all others.
SUPERVISOR = "app"
# Seconds; a supervisor kills what has not ended well before.
WAIT_FOR_END = 30.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.control")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="show each process").add_argument("--json", action="store_true")
    commands.add_parser("stop", help="end everything that runs in this data folder")
    commands.add_parser("reset", help="delete the bundled database").add_argument("--yes", action="store_true")
    commands.add_parser("shell", help="psql on the database; its options may follow")
    given, rest = parser.parse_known_args(arguments)
    if rest and given.command != "shell":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        settings = Settings.load()
        match given.command:
            case "status":
                return show_status(settings, as_json=given.json)
            case "stop":
                return stop(settings)
            case "reset":
                return reset(settings, confirmed=given.yes)
            case _:
                return shell(settings, rest)
    except (SettingError, bundled.DatabaseError) as error:
        return complain(str(error))


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print what each process told of itself; 1 when none of them runs."""
    statuses = read(settings.data_dir / "run")
    if as_json:
        say(json.dumps([asdict(status) for status in statuses], indent=2))
    elif statuses:
        rows = [("process", "state", "pid", "since", "address", "last error"), *map(_row, statuses)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    running = _running(statuses)
    if not running:
        complain(f"Nothing runs in {settings.data_dir.absolute()}: start it with `invoke dev`.")
    return 0 if running else 1


def _row(status: Status) -> tuple[str, ...]:
    since = datetime.fromtimestamp(status.since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    pid = str(status.pid) if status.state is not State.STOPPED else ""
    return (status.name, status.state, pid, since, status.address or "", status.error or "")


def _running(statuses: Sequence[Status]) -> list[Status]:
    return [status for status in statuses if status.state is not State.STOPPED]


def stop(settings: Settings) -> int:
    """Ask the supervisor to end, or where there is none each process, and wait until all are gone."""
    folder = settings.data_dir / "run"
    running = _running(read(folder))
    for status in [status for status in running if status.name == SUPERVISOR] or running:
        with suppress(ProcessLookupError):
            os.kill(status.pid, signal.SIGTERM)
    if not running:
        say(f"Nothing runs in {settings.data_dir.absolute()}.")
        return 0
    deadline = time.monotonic() + WAIT_FOR_END
    while left := _running(read(folder)):
        if time.monotonic() > deadline:
            return complain(f"still running: {', '.join(f'{status.name} (pid {status.pid})' for status in left)}")
        time.sleep(0.02)
    say(f"Stopped {', '.join(status.name for status in running)}.")
    return 0


def reset(settings: Settings, *, confirmed: bool) -> int:
    """Delete the bundled database, unless it is in use or somebody answers no."""
    if settings.database_url:
        return complain("DATABASE_URL is set: only the bundled database can be deleted from here. Unset it first.")
    question = f"Delete the database in {settings.data_dir.absolute()} with all agents and runs? [y/N] "
    if not confirmed and not _agrees(question):
        return complain("Nothing was deleted.")
    bundled.remove(settings.data_dir)
    say("The database is deleted; the next start makes a new one.")
    return 0


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def shell(settings: Settings, arguments: Sequence[str]) -> int:
    """Become psql."""
    psql = str(bundled.binary("psql"))
    os.execv(psql, [psql, database_address(settings), *arguments])


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def complain(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
