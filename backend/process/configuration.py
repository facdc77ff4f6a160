"""Takes in what changes in the Procfile and in .env while their processes run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from backend.process.procfile import Command, ProcfileError, short_name
from backend.process.unit import Unit

PROCFILE = "Procfile"
ENV = ".env"


class Crew(Protocol):
    """Those who run what the Procfile lists."""

    def units(self) -> list[Unit]: ...

    def add_now(self, command: Command) -> None: ...

    def remove_now(self, unit: Unit) -> None: ...

    def say(self, text: str) -> None: ...


class Configuration:
    """What runs, as the Procfile and .env have it. `commands` reads them; it may raise ProcfileError."""

    def __init__(self, crew: Crew, root: Path, commands: Callable[[], Sequence[Command]]) -> None:
        self._crew = crew
        self._procfile = root / PROCFILE
        self._env = root / ENV
        self._commands = commands
        self._variables = self._read_env()

    def take_in(self, saved: set[str]) -> set[Unit]:
        """Add and remove processes if the Procfile or .env is among the saved files; those to be exchanged."""
        if not saved & {PROCFILE, ENV} or not self._procfile.exists():  # editors delete before they write
            return set()
        try:
            wanted = {command.name: command for command in self._commands()}
        except ProcfileError as error:
            self._crew.say(f"{error}\nWhat runs goes on as it is.")
            return set()
        changed = {unit for unit in self._crew.units() if self._is_changed(unit, wanted.get(unit.name))}
        for unit in self._crew.units():
            if unit.name not in wanted:
                self._crew.say(f"{unit.short_name} is no longer in the Procfile, and ends.")
                self._crew.remove_now(unit)
        known = {unit.name for unit in self._crew.units()}
        for name in wanted.keys() - known:
            self._crew.say(f"{short_name(name)} is new in the Procfile: {wanted[name].line}")
            self._crew.add_now(wanted[name])
        if ENV in saved and self._tell_variables():
            changed |= {unit for unit in self._crew.units() if unit.notifies and unit.current}
        return changed

    def _is_changed(self, unit: Unit, command: Command | None) -> bool:
        if command is None or (unit.cmd, unit.env) == (command.line, command.env):
            return False
        if unit.cmd != command.line:
            self._crew.say(f"{unit.short_name} has another command in the Procfile: {command.line}")
        unit.cmd, unit.env, unit.argv = command.line, command.env, command.after_python()
        unit.notifies = command.ours
        return True

    def _tell_variables(self) -> bool:
        """Whether any has changed; a file that cannot be read counts."""
        before, self._variables = self._variables, self._read_env()
        names = sorted(dict(before.items() ^ self._variables.items()))
        if names:
            self._crew.say(f".env: {', '.join(names)} changed.")
        return bool(names)

    def _read_env(self) -> dict[str, str | None]:
        from dotenv import dotenv_values  # noqa: PLC0415 - only where files are watched

        try:
            return dotenv_values(self._env)
        except (UnicodeDecodeError, OSError):
            return {"": None}  # the processes that read it say so
