"""Writes what systemd, supervisord or compose need for the Procfile: `python -m backend.export FORMAT [--to DIR]`."""

from __future__ import annotations

import argparse
import os
import pwd
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from backend.app import listed
from backend.process.export import Compose, ExportError, Line, Supervisord, Systemd, write
from backend.process.procfile import Command, ProcfileError, short_name
from backend.settings import SECRET, SHORT_FLAGS, SettingError, Settings

APP = "agent-server"
FORMATS = {"systemd": Systemd, "supervisord": Supervisord, "compose": Compose}
MODULE = re.compile(r"python -m backend\.(\w+)")
# The module that runs the bundled PostgreSQL: others start after it.
DATABASE = "database"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}.\n")


def main(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="python -m backend.export", description=__doc__)
    parser.add_argument("format", metavar="FORMAT", choices=FORMATS, help=", ".join(FORMATS))
    parser.add_argument("--to", metavar="DIR", type=Path, help="folder to write to; default: export/FORMAT")
    given = parser.parse_args(arguments)
    try:
        written = export(given.format, given.to or Path("export", given.format))
    except (ProcfileError, SettingError, ExportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in written:
        sys.stdout.write(f"wrote {path}\n")
    for name in sorted(SECRET.keys() & os.environ.keys()):
        sys.stderr.write(f"{name} is not written, for it is secret: put it into .env.\n")
    return 0


def export(format: str, folder: Path) -> list[Path]:
    """Write the files of `format` and return their paths. Raises ProcfileError, SettingError, ExportError."""
    settings = Settings.load()
    commands = listed()
    mark = f"Written by `invoke export {format}`, which overwrites it."
    context: dict[str, object] = {"app": APP, "mark": mark, "root": os.getcwd(), "folder": str(folder.absolute())}
    if format == "compose":
        context |= {"requirements": "requirements.lock", "health": "/readyz", "postgres": not settings.database_url}
        lines = _lines_in_containers(commands, settings)
    else:
        context |= {"user": _user()}
        lines = _lines(commands, settings)
    return write(FORMATS[format]().render(lines, context), folder, mark)


def _lines(commands: Sequence[Command], settings: Settings) -> list[Line]:
    """Every line, with this interpreter as `python`, and with what is set in our environment."""
    path = [str(Path(sys.executable).parent), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    env = {"APP_ENV": "production", "PATH": os.pathsep.join(dict.fromkeys(path)), "PYTHONUNBUFFERED": "1"}
    for name in Settings.model_fields:
        if name.upper() in os.environ and name != "app_env" and name.upper() not in SECRET:
            env[name.upper()] = os.environ[name.upper()]
    databases = tuple(short_name(command.name) for command in commands if _module(command) == DATABASE)
    return [
        Line(
            short_name(command.name),
            command.line,
            env,
            notifies=command.ours,
            listens=_listens(command, settings),
            after=() if short_name(command.name) in databases else databases,
        )
        for command in commands
    ]


def _lines_in_containers(commands: Sequence[Command], settings: Settings) -> list[Line]:
    """Every line but the bundled PostgreSQL, whose socket and lock are no good between containers."""
    ports = {name.upper(): str(getattr(settings, name)) for name in Settings.model_fields if name.endswith("_port")}
    hosts = {name.upper(): "0.0.0.0" for name in Settings.model_fields if name.endswith("_host")}
    env = {"APP_ENV": "production", "DATA_DIR": "/tmp/data", **hosts, **ports}
    return [
        replace(line, env=env, after=())
        for line, command in zip(_lines(commands, settings), commands, strict=True)
        if _module(command) != DATABASE
    ]


def _module(command: Command) -> str | None:
    found = MODULE.search(command.line)
    return found[1] if found else None


def _listens(command: Command, settings: Settings) -> tuple[str, int] | None:
    """Where it will listen: as its flags say, or else the settings. None if nowhere, or on any free port."""
    settings_of = SHORT_FLAGS.get(_module(command) or "")
    if not settings_of:
        return None
    parser = _Parser(prog=f"the Procfile's {short_name(command.name)}", add_help=False, allow_abbrev=False)
    for flag, setting in settings_of.items():
        long = f"--{setting.replace('_', '-')}"
        parser.add_argument(f"--{flag}", long, dest=flag, default=str(getattr(settings, setting)))
    try:
        found, _ = parser.parse_known_args(shlex.split(command.line))
        return (found.host, int(found.port)) if int(found.port) else None
    except ValueError as error:
        raise ExportError(f"cannot tell where {command.line!r} of the Procfile listens ({error}): mend it.") from error


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that was given any number
        return str(os.getuid())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
