"""Runs the processes of the project: one in the foreground, several together. `python -m backend.app`: the Procfile."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.process.lifecycle import live
from backend.process.process import AppProcess, State
from backend.process.status import StatusFile
from backend.settings import SettingError, Settings, take_flags

# Tells a child which of several processes of its script it is to run.
CHOSEN = "RUN_PROCESS"
# A Procfile line that is an AppProcess, and says itself when it is ready.
OURS = "python -m backend."
PROCFILE_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")


class CannotRun(Exception):
    """The processes cannot be run here. The message is one sentence for a person."""


@dataclass(frozen=True)
class Command:
    """One process to be run beside others: what Procfiles call a line."""

    name: str
    line: str
    ours: bool
    env: dict[str, str]


def run_processes(*processes: AppProcess, reload: bool = False) -> int:
    """Run the processes, block until all have stopped, and return the exit status.

    One runs here, as itself. Several run in child processes of their own, each of which runs this script again up to
    this line; so does a single one with `reload`, which exchanges processes whose code was saved. Whatever happens,
    nothing that was started is left.
    """
    if not processes:
        raise ValueError("run_processes needs at least one process")
    chosen = os.environ.pop(CHOSEN, None)
    try:
        settings = Settings.load()
        if chosen is not None:
            return _run_here(processes[int(chosen)], settings)
        if len(processes) == 1 and not reload:
            return _run_here(processes[0], settings)
        return _run_together(_this_script(processes), settings, reload=reload)
    except (SettingError, CannotRun) as error:
        return _complain(error)


def run_procfile() -> int:
    """Run every line of the Procfile; in development with reload, in production with JSON logs."""
    try:
        settings = Settings.load()
        commands = procfile(Path("Procfile"))
        return _run_together(commands, settings, reload=settings.app_env == "development")
    except (SettingError, CannotRun) as error:
        return _complain(error)


def _complain(error: Exception) -> int:
    sys.stderr.write(f"{error}\n")
    return 1


def _run_here(process: AppProcess, settings: Settings) -> int:
    from backend import log  # noqa: PLC0415 - structlog: the supervisor starts 0.2 s sooner without

    log.configure(process.name, settings.app_env, settings.log_level)
    return live(process, _run_folder(settings), title=f"agent-server: {process.name}")


def _run_together(commands: Sequence[Command], settings: Settings, *, reload: bool) -> int:
    from backend.process.supervisor import Supervisor  # noqa: PLC0415 - honcho: a single process does without

    with _only_one(_run_folder(settings)) as record:
        supervisor = Supervisor(as_json=settings.app_env == "production", welcome=_welcome)
        for command in commands:
            unit = supervisor.add_process(command.name, command.line, env=_environment(command))
            unit.notifies = command.ours
        if reload:
            supervisor.reload(Path.cwd(), ignored=[settings.data_dir.absolute()])
        record.write(State.RUNNING)
        status = supervisor.run()
        record.write(State.STOPPED)
    return status


def _this_script(processes: Sequence[AppProcess]) -> list[Command]:
    if len(sys.orig_argv) < 2:
        raise CannotRun("several processes need a script or module that starts them: this is an interactive session.")
    line = shlex.join([sys.executable, *sys.orig_argv[1:]])
    names = [process.name for process in processes]
    numbers = [names[:position].count(name) + 1 for position, name in enumerate(names)]
    return [
        Command(f"{name}.{number}", line, ours=True, env={CHOSEN: str(position)})
        for position, (name, number) in enumerate(zip(names, numbers, strict=True))
    ]


def procfile(path: Path) -> list[Command]:
    """The lines of a Procfile. Raises CannotRun when there are none, or one is no line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"cannot read {path.absolute()} ({error}): run this in the project's folder.") from error
    commands: dict[str, Command] = {}
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.startswith("#"):
            continue
        found = PROCFILE_LINE.fullmatch(text)
        if not found or found[1] in commands:
            raise CannotRun(
                f"line {number} of the Procfile is {text!r}: each is `name: command`, with a name of its own."
            )
        commands[found[1]] = Command(f"{found[1]}.1", found[2], ours=OURS in found[2], env={})
    if not commands:
        raise CannotRun(f"{path.absolute()} lists no process: each line is `name: command`.")
    return list(commands.values())


def _environment(command: Command) -> dict[str, str]:
    """What the process finds: this interpreter as `python`, its name, and whether people see colours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {"PATH": path, "HONCHO_PROCESS_NAME": command.name}
    colour = {"FORCE_COLOR": "1"} if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}
    return {"PYTHONUNBUFFERED": "1", **os.environ, **ours, **colour, **command.env}


def _run_folder(settings: Settings) -> Path:
    return settings.data_dir / "run"


@contextmanager
def _only_one(folder: Path) -> Generator[StatusFile]:
    """Hold the lock of the data folder; it says who does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise CannotRun(f"cannot write to {folder} ({error.strerror}): set DATA_DIR to a folder you own.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise CannotRun(
                f"{folder.parent} is in use by pid {holder} (python -m backend.app): stop it, or set DATA_DIR."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        record = StatusFile(folder, "app")
        record.remove_predecessors()
        yield record


def _welcome(links: dict[str, dict[str, str]]) -> str:
    """The block that tells a person where to go: one line for each address that a process told."""
    rows = [
        (name if label == "address" else f"{name} {label}", address)
        for name, places in links.items()
        for label, address in places.items()
    ]
    width = max((len(title) for title, _ in rows), default=0)
    shown = [f"  {title.ljust(width)}  {address}" for title, address in rows]
    return "\n".join(["", "Ready.", *shown, "Ctrl-C stops it.", ""]) + "\n"


def main() -> int:
    return run_procfile()


if __name__ == "__main__":
    take_flags("app", sys.argv[1:])
    sys.exit(main())
