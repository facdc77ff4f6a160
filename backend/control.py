"""What there is to do to a running server and its database: `python -m backend.control status`, …"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any

from honcho.printer import Message

from backend.process import roster, table
from backend.process.control import LINES
from backend.process.output import SYSTEM, PiecePrinter, in_colour, notice
from backend.process.process import State
from backend.process.reload import listed
from backend.process.sockets import reachable
from backend.process.status import Status, read
from backend.settings import SettingError, Settings
from backend.store import bundled
from backend.store.address import database_address

# What `python -m backend` calls itself: the process that ends all others.
SUPERVISOR = "app"
# The room for the names before the lines that `logs` shows.
NAME_WIDTH = 11
# Seconds; a supervisor kills what has not ended well before.
WAIT_FOR_END = 30.0


class CannotAsk(Exception):
    """The supervisor cannot be asked, or does not do what it was asked for. The message is one sentence."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.control")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="show each process").add_argument("--json", action="store_true")
    commands.add_parser("restart", help="start processes anew, without a gap").add_argument("name", nargs="*")
    logs = commands.add_parser("logs", help="show what processes said last")
    logs.add_argument("name", nargs="*")
    logs.add_argument("--follow", action="store_true", help="go on with what they say from now on")
    logs.add_argument("--lines", type=_count, default=LINES, help="how many of the last lines")
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
            case "restart":
                return restart(settings, given.name)
            case "logs":
                return show_logs(settings, given.name, follow=given.follow, lines=given.lines)
            case "stop":
                return stop(settings)
            case "reset":
                return reset(settings, confirmed=given.yes)
            case _:
                return shell(settings, rest)
    except (SettingError, CannotAsk, bundled.DatabaseError) as error:
        return complain(str(error))
    except BrokenPipeError:  # nobody reads what we print
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines: 0 or more is expected")
    return int(text)


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print each process and how it is; 1 when none of them runs."""
    rows = table.rows(settings.data_dir / "run")
    if as_json:
        say(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        for line in table.lines(rows, colour=in_colour(sys.stdout)):
            say(line)
    if all(row.state == State.STOPPED for row in rows):
        return complain(nothing_runs(settings))
    return 0


def nothing_runs(settings: Settings) -> str:
    return f"Nothing runs in {settings.data_dir.absolute()}: start it with `invoke dev`."


def restart(settings: Settings, names: Sequence[str]) -> int:
    """Exchange processes, all if no name is given; 1 if one could not be."""
    [answer] = ask(settings, {"do": "restart", "names": names})
    for each in answer["restarted"]:
        took = f"{each['seconds'] * 1000:.0f} ms"
        if each["done"]:
            say(f"Restarted {each['name']} in {took}.")
        else:
            complain(f"{each['name']} was not restarted ({took}): {each['failure']}")
    return 0 if all(each["done"] for each in answer["restarted"]) else 1


def show_logs(settings: Settings, names: Sequence[str], *, follow: bool, lines: int) -> int:
    """Print the last lines of all processes or of these, and go on if asked to, until the server ends."""
    printer = PiecePrinter(sys.stdout, colour=in_colour(sys.stdout))
    for answer in ask(settings, {"do": "logs", "names": names, "follow": follow, "lines": lines}):
        if piece := answer.get("piece"):
            time = datetime.fromtimestamp(piece["time"])
            printer.width = max(printer.width, len(piece["name"]), NAME_WIDTH)
            # As bytes: it is what a process said, and not what we say.
            text = piece["text"] if piece["name"] == SYSTEM else piece["text"].encode()
            printer.write(Message("line", text, time, piece["name"], piece["colour"]))
        elif missed := answer.get("missed"):
            printer.write(notice(f"{missed} lines were said faster than they could be shown here."))
    return 0


def ask(settings: Settings, request: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Yield the answers of the supervisor, up to the last one; raises CannotAsk."""
    folder = settings.data_dir / "run"
    found = roster.read(folder)
    if found is None:
        alone = [one.name for one in _running(read(folder))]
        names = f"{listed(alone)} in {settings.data_dir.absolute()} run" if alone else ""
        hint = f"{names} without a supervisor: only what `invoke dev` or `invoke start` runs can be asked."
        raise CannotAsk(hint if alone else nothing_runs(settings))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(reachable(found.control))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise CannotAsk(answer["error"])
                    if "end" in answer:
                        return
                    yield answer
                    if "restarted" in answer:
                        return
        except OSError as error:
            raise CannotAsk(f"The server (pid {found.pid}) does not answer: {error.strerror}.") from error


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
