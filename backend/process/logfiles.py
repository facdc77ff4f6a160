"""Writes what each process says into a file of its own, which is exchanged for a new one when it is large."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from honcho.printer import Message

from backend.process.output import plain, text_of
from backend.process.procfile import short_name

# Bytes of a file, and how many older ones of a process are kept (rest.log.1 is the youngest of them).
LARGEST = 10_000_000
KEPT = 5


class LogFiles:
    """`folder`/rest.log, `folder`/executor.2.log, …; what the supervisor says is in system.log.

    Raises OSError when the folder cannot be written to. What fails later is told to `say`, once, and tried again with
    the next lines.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        self._folder = folder
        self._say = say
        self._files: dict[str, _File] = {}
        self._failed = False

    def hear(self, message: Message) -> None:
        name = short_name(message.name)
        if name not in self._files:
            self._files[name] = _File(self._folder / f"{name}.log", self._fail)
        time = f"{message.time.astimezone().isoformat(timespec='milliseconds')} "
        text = plain(text_of(message)).removesuffix("\n")
        lines = (line.rstrip("\r") for line in text.split("\n"))
        self._files[name].emit(logging.makeLogRecord({"msg": "".join(f"{time}{line}\n" for line in lines)}))

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _fail(self, path: str, error: BaseException | None) -> None:
        if not self._failed:
            self._failed = True
            reason = getattr(error, "strerror", None) or error
            self._say(f"cannot write {path} ({reason}): lines are missing there until it is mended; the rest goes on.")


class _File(RotatingFileHandler):
    """A record is many lines; `on_error` hears of each that could not be written."""

    terminator = ""

    def __init__(self, path: Path, on_error: Callable[[str, BaseException | None], None]) -> None:
        super().__init__(path, maxBytes=LARGEST, backupCount=KEPT, encoding="utf-8", errors="replace", delay=True)
        self._on_error = on_error

    def handleError(self, record: logging.LogRecord) -> None:
        del record
        self._on_error(self.baseFilename, sys.exc_info()[1])

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # the disk is full still
            self._on_error(self.baseFilename, error)
