"""The life of one AppProcess inside this operating system process, from idle to stopped."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from setproctitle import setproctitle

from backend.process import tracking
from backend.process.failure import describe, is_of, report, sentence
from backend.process.orphans import end_with_honcho
from backend.process.process import AppProcess, State, Stopped
from backend.process.signals import StopSignals
from backend.process.sockets import notify, wait_for_turn
from backend.process.status import StatusFile

log = logging.getLogger(__name__)


def live(process: AppProcess, folder: Path, title: str) -> int:
    """Run `process` here and return the exit status: 0, 1 after an error, 128 + the number of the signal.

    Its state is told in `folder` (see status.py); `title` is what ps and top show.
    """
    signals = StopSignals(process)
    signals.install()
    tracking.track()
    setproctitle(title)
    end_with_honcho()
    record = StatusFile(folder, process.name)
    record.remove_predecessors()
    process.on_ready = lambda links: _tell_ready(record, links)
    process.state = State.INITIALIZING
    record.write(process.state)
    error = _run(process, signals)
    cleaning_error = _clean_up(process)
    tracking.tell_modules()  # some packages are imported when they are first needed
    error = error or cleaning_error
    process.state = State.STOPPED
    record.write(process.state, error=sentence(error, _package(process)) if error else None)
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
    tracking.tell()
    notify(READY="1", X_LINKS=json.dumps(links))


def _report(error: BaseException, process: AppProcess) -> None:
    package = _package(process)
    if process.state is State.RUNNING:
        trace = None if is_of(error, package) else error
        log.error("%s ended by an error: %s", process.name, sentence(error, package), exc_info=trace)
        return
    report(describe(error, Path.cwd(), package))
    log.debug("%s could not start", process.name, exc_info=error)


def _package(process: AppProcess) -> str:
    """The package whose errors are worded for people: the one that the process is of."""
    return type(process).__module__.partition(".")[0]
