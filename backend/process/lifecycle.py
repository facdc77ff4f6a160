"""The life of one AppProcess inside this operating system process, from idle to stopped."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from setproctitle import setproctitle

from backend.process.orphans import end_with_honcho
from backend.process.process import AppProcess, State, Stopped
from backend.process.signals import StopSignals
from backend.process.sockets import notify, wait_for_turn
from backend.process.status import StatusFile

# Set by a supervisor that reloads: the folder whose files it wants to hear about.
RELOAD_ROOT = "RELOAD_ROOT"

log = logging.getLogger(__name__)


def live(process: AppProcess, folder: Path, title: str) -> int:
    """Run `process` here and return the exit status: 0, 1 after an error, 128 + the number of the signal.

    Its state is told in `folder` (see status.py); `title` is what ps and top show.
    """
    signals = StopSignals(process)
    signals.install()
    setproctitle(title)
    end_with_honcho()
    record = StatusFile(folder, process.name)
    record.remove_predecessors()
    process.on_ready = lambda links: _tell_ready(record, links)
    process.state = State.INITIALIZING
    record.write(process.state)
    error = _run(process, signals)
    cleaning_error = _clean_up(process)
    error = error or cleaning_error
    process.state = State.STOPPED
    record.write(process.state, error=sentence(error, process) if error else None)
    return signals.exit_status or (1 if error else 0)


def _run(process: AppProcess, signals: StopSignals) -> BaseException | None:
    try:
        signals.deliver = True
        if signals.received is None:
            _wait_and_run(process)
    except Stopped:
        return None
    except BaseException as error:
        _report(error, process)
        return error
    finally:
        signals.deliver = False
    return None


def _wait_and_run(process: AppProcess) -> None:
    if not process.overlap:
        wait_for_turn()
    process.run()


def _clean_up(process: AppProcess) -> BaseException | None:
    try:
        process.cleanup()
    except Exception as error:
        log.exception("%s: cleaning up failed", process.name)
        return error
    return None


def _tell_ready(record: StatusFile, links: dict[str, str]) -> None:
    record.write(State.RUNNING, address=links.get("address"))
    root = os.environ.get(RELOAD_ROOT)
    if root:
        notify(X_FILES=json.dumps(_project_files(Path(root))))
    notify(READY="1", X_LINKS=json.dumps(links))


def _project_files(root: Path) -> list[str]:
    """The files below `root` that the loaded modules came from, relative to it; installed packages left out."""
    paths = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    inside = [path.absolute().relative_to(root) for path in paths if path.absolute().is_relative_to(root)]
    return sorted(str(path) for path in inside if "site-packages" not in path.parts)


def _report(error: BaseException, process: AppProcess) -> None:
    if process.state is State.RUNNING:
        trace = None if _is_for_people(error, process) else error
        log.error("%s ended by an error: %s", process.name, sentence(error, process), exc_info=trace)
        return
    sys.stderr.write(sentence(error, process) + "\n")
    sys.stderr.flush()
    log.debug("%s could not start", process.name, exc_info=error)


def sentence(error: BaseException, process: AppProcess) -> str:
    """One line for a person. Errors of the process's own package are worded for people; others get their type."""
    error = _only(error)
    text = " ".join(str(error).split())
    return text if text and _is_for_people(error, process) else f"{type(error).__name__}: {text}".rstrip(": ")


def _is_for_people(error: BaseException, process: AppProcess) -> bool:
    return _package(type(_only(error))) in {_package(type(process)), _package(AppProcess)}


def _only(error: BaseException) -> BaseException:
    """The error itself, or the one that a group holds."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return _only(inner[0]) if len(inner) == 1 else error


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
