"""Runs the processes of the project: one in the foreground, several together."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from backend.process import procfile
from backend.process.failure import Failure, report
from backend.process.lifecycle import live
from backend.process.process import AppProcess, State
from backend.process.procfile import Command, ProcfileError
from backend.process.status import StatusFile
from backend.settings import KEY_PREFIX, SettingError, Settings

if TYPE_CHECKING:
    from backend.process.launch import ForkServer

# Tells a child which of several processes of its script it is to run.
CHOSEN = "RUN_PROCESS"
# A Procfile line that is an AppProcess, and says itself when it is ready.
OURS = "python -m backend."
# The first one is shown when it is made, for the only time.
API_KEY = re.compile(KEY_PREFIX.encode() + rb"[\w-]{27,}")


class CannotRun(Exception):
    """The processes cannot be run here. The message is one sentence for a person."""


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
        return _run_together(lambda: _this_script(processes), settings, reload=reload)
    except (SettingError, CannotRun) as error:
        return _complain(error)


def run_procfile(server: ForkServer | None = None) -> int:
    """Run every line of the Procfile, by a fork server that was started before; in development with reload."""
    try:
        settings = Settings.load()
        return _run_together(listed, settings, server, reload=settings.app_env == "development")
    except (SettingError, CannotRun, ProcfileError) as error:
        return _complain(error)


def _complain(error: Exception) -> int:
    report(Failure(str(error)))
    return 1


def _run_here(process: AppProcess, settings: Settings) -> int:
    from backend import log  # noqa: PLC0415 - structlog: the supervisor starts 0.2 s sooner without

    log.configure(process.name, settings.app_env, settings.log_level)
    return live(process, _run_folder(settings), title=f"agent-server: {process.name}")


def _run_together(
    commands: Callable[[], Sequence[Command]], settings: Settings, server: ForkServer | None = None, *, reload: bool
) -> int:
    from backend.process.supervisor import Supervisor  # noqa: PLC0415 - honcho: a single process does without

    begun = commands()
    folder = _run_folder(settings)
    with _only_one(folder) as record:
        as_json, log_dir = settings.app_env == "production", settings.log_dir
        try:
            supervisor = Supervisor(
                _welcome, as_json=as_json, folder=folder, server=server, log_dir=log_dir, private=API_KEY
            )
        except OSError as error:
            raise CannotRun(
                f"LOG_DIR is '{log_dir}', where nothing can be written ({error.strerror}): set it to a folder you own."
            ) from error
        if reload:
            ignored = [settings.data_dir.absolute(), *([log_dir.resolve()] if log_dir else [])]
            supervisor.reload(Path.cwd(), ignored, commands)
            supervisor.take_keys()
        for command in begun:
            supervisor.add(command)
        record.write(State.RUNNING)
        status = supervisor.run()
        record.write(State.STOPPED)
    return status


def _this_script(processes: Sequence[AppProcess]) -> list[Command]:
    if len(sys.orig_argv) < 2:
        raise CannotRun("several processes need a script or module that starts them: this is an interactive session.")
    argv = sys.orig_argv[1:]
    names = [process.name for process in processes]
    numbered = [f"{name}.{names[:position].count(name) + 1}" for position, name in enumerate(names)]
    line = shlex.join([sys.executable, *argv])
    return [
        Command(name, line, ours=True, env=_environment(name) | {CHOSEN: str(position)}, argv=argv)
        for position, name in enumerate(numbered)
    ]


def listed() -> list[Command]:
    """What the Procfile lists. Raises ProcfileError."""
    # honcho gives .env to every process; ours read it by themselves, as they may run without a supervisor, too.
    try:
        given = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    except (UnicodeDecodeError, OSError) as error:
        raise ProcfileError(f".env cannot be read ({error}): it has to be a file of UTF-8 text.") from error
    lines = {f"{name}.1": line for name, line in procfile.read(Path("Procfile")).items()}
    return [
        Command(name, line, ours=OURS in line, env=({} if OURS in line else given) | _environment(name))
        for name, line in lines.items()
    ]


def _environment(name: str) -> dict[str, str]:
    """What the process finds: this interpreter as `python`, its name, and whether people see colours."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {"PATH": path, "HONCHO_PROCESS_NAME": name}
    colour = {"FORCE_COLOR": "1"} if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else {}
    return {"PYTHONUNBUFFERED": "1", **os.environ, **ours, **colour}


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
                f"{folder.parent} is in use by pid {holder} (python -m backend): stop it, or set DATA_DIR."
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
