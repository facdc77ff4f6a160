"""What a person is told of a process that failed: one sentence, and the line of the project it points at."""

from __future__ import annotations

import json
import linecache
import os
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from backend.process.sockets import notify
from backend.process.tracking import RELOAD_ROOT

# Frames of what starts the project's code.
MACHINERY = ("runpy.py", "<frozen runpy>", "forkserver.py")
# The signal that asks a process that does not get ready where it stands.
WHERE = signal.SIGUSR1


@dataclass(frozen=True)
class Failure:
    """`file` (relative to the project) and `line` are None where it is no fault in code; `excerpt` is that line."""

    sentence: str
    file: str | None = None
    line: int | None = None
    excerpt: str = ""

    def __str__(self) -> str:
        return "\n".join(filter(None, [self.short, self.excerpt]))

    @property
    def short(self) -> str:
        """Without the excerpt."""
        return f"{self.file}:{self.line}: {self.sentence}" if self.file else self.sentence


def describe(error: BaseException, root: Path, package: str | None = None) -> Failure:
    """`error` for people. Errors of `package` are worded for them already, and need no line to point at."""
    error = only(error)
    if package and is_of(error, package) and str(error):
        return Failure(sentence(error, package))
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        shown = "".join(traceback.TracebackException.from_exception(error).format_exception_only()).splitlines()
        excerpt = "\n".join(line for line in shown[1:-1] if line.strip())
        return Failure(sentence(error), _relative(error.filename, root), error.lineno, excerpt)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.endswith(MACHINERY)]
    ours = [frame for frame in frames if _is_in(frame.filename, root)] or frames
    if not ours:
        return Failure(sentence(error))
    return _at(ours[-1], sentence(error), root)


def answer_where(root: Path) -> None:
    """Answer the signal WHERE with the line of the project that is being run."""

    def answer(number: int, frame: FrameType | None) -> None:
        del number
        frames = [each for each in traceback.extract_stack(frame) if _is_in(each.filename, root)]
        if frames:
            report(_at(frames[-1], "it hangs here instead of getting ready", root))

    signal.signal(WHERE, answer)


def _at(place: traceback.FrameSummary, text: str, root: Path) -> Failure:
    excerpt = f"    {linecache.getline(place.filename, place.lineno or 0).strip()}"
    return Failure(text, _relative(place.filename, root), place.lineno, excerpt)


def report(failure: Failure) -> None:
    """Tell the supervisor that reloads, which shows it once for all; without one, write it to stderr."""
    if RELOAD_ROOT in os.environ:
        notify(X_ERROR=json.dumps(asdict(failure)))
    else:
        sys.stderr.write(f"{failure.short}\n")
        sys.stderr.flush()


def sentence(error: BaseException, package: str | None = None) -> str:
    """One line. Errors of `package` speak for themselves; others get their type before it."""
    error = only(error)
    text = error.msg if isinstance(error, SyntaxError) else _text(error)
    kind = "" if package and text and is_of(error, package) else f"{type(error).__name__}: "
    return (kind + text).rstrip(": ")


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except Exception:
        return "which cannot say what is wrong"


def is_of(error: BaseException, package: str) -> bool:
    """Whether the error's class comes from the top-level `package`, or from the one of this module."""
    return type(only(error)).__module__.partition(".")[0] in {package, __name__.partition(".")[0]}


def only(error: BaseException) -> BaseException:
    """The error itself, or the one that a group holds."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return only(inner[0]) if len(inner) == 1 else error


def _is_in(file: str, root: Path) -> bool:
    return "site-packages" not in file and Path(file).is_relative_to(root)


def _relative(file: str, root: Path) -> str:
    return str(Path(file).relative_to(root)) if Path(file).is_relative_to(root) else file
