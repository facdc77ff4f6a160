"""Tells which files of the project were saved."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

# What counts as code; anything else (logs, databases) may be written all the time.
CODE = {".py", ".html", ".jinja", ".j2", ".css", ".js", ".sql", ".json", ".yaml", ".env"}
NOT_OURS = {"node_modules", "__pycache__", "venv"}
# Milliseconds between two looks at what the system has reported, and the longest a burst of saves is collected.
LOOK = 50
COLLECT = 200


def watch(root: Path, ignored: Collection[Path], stop: threading.Event, report: Callable[[set[str]], None]) -> None:
    """Call `report` with the names (relative to `root`) of saved files until `stop` is set. Runs in a thread."""
    import watchfiles  # noqa: PLC0415 - a tenth of a second that only a reloading supervisor has to spend

    known: set[Path] | None = None
    while not stop.is_set():
        folders = set(_folders(root, ignored))
        if known is not None:
            _tell(root, (path for folder in folders - known for path in folder.iterdir()), report)
        known = folders
        changes = watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=COLLECT,
            step=LOOK,
            stop_event=stop,
            recursive=False,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        for saved in changes:
            paths = [Path(path) for _, path in saved]
            _tell(root, paths, report)
            if any(path.is_dir() and path not in known and _is_ours(path, ignored) for path in paths):
                break  # a new folder: begin again with it


def _tell(root: Path, paths: Iterator[Path] | list[Path], report: Callable[[set[str]], None]) -> None:
    saved = [path for path in paths if path.suffix in CODE or path.name in CODE]
    for path in saved:
        _forget_compiled(path)
    if saved:
        report({str(path.relative_to(root)) for path in saved})


def _forget_compiled(path: Path) -> None:
    """CPython would use the old one if the new source has the same size and was saved within the same second."""
    if path.suffix == ".py":
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)


def _folders(root: Path, ignored: Collection[Path]) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        names[:] = [name for name in names if _is_ours(Path(folder, name), ignored)]
        yield Path(folder)


def _is_ours(folder: Path, ignored: Collection[Path]) -> bool:
    return not folder.name.startswith(".") and folder.name not in NOT_OURS and folder not in ignored
