"""Tells a supervisor that reloads which files of the project this process has read, and what else it has imported."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from backend.process.sockets import notify

# Set by a supervisor that reloads: the folder whose files it wants to hear about.
RELOAD_ROOT = "RELOAD_ROOT"
# Names in one message: it has to fit into a datagram.
NAMES_AT_ONCE = 500

IMPORT_SYSTEM = "<frozen importlib._bootstrap_external>"


class Tracker:
    """Hears of every file that is opened, by an audit hook; hooks cannot be removed, so there is one for good.

    Files are told relative to `root`; a folder whose names were read ends with a slash; a file that this process
    writes itself is told with a minus before it, and not again.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root) + os.sep
        self._files: set[str] = set()
        self._written: set[str] = set()
        self._told = False
        for module in list(sys.modules.values()):
            if file := getattr(module, "__file__", None):
                self._note_read(file)
        sys.addaudithook(self._hear)

    def tell(self) -> None:
        """Tell all there is to tell so far; from now on, files are told as they are read."""
        self._told = True
        self._send(self._files | {f"-{name}" for name in self._written})

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if _is_for_writing(mode, flags):
                self._note_written(path)
            else:
                self._note_read(path)
        elif event in ("os.listdir", "os.scandir"):
            # The import system looks into every folder it imports from.
            if sys._getframe(1).f_code.co_filename != IMPORT_SYSTEM:  # pyright: ignore[reportPrivateUsage]
                self._note_read(arguments[0], os.sep)
        elif event == "os.rename":
            self._note_written(arguments[1])

    def _note_read(self, path: object, ending: str = "") -> None:
        name = self._relative(path)
        if name is not None and (name := name + ending) not in self._files and name not in self._written:
            self._files.add(name)
            if self._told:
                self._send({name})

    def _note_written(self, path: object) -> None:
        if isinstance(path, str) and path.endswith(".pyc"):
            return  # it stands for its source, which nobody has written
        name = self._relative(path)
        if name and name not in self._written:
            self._written.add(name)
            self._files.discard(name)
            if self._told:
                self._send({f"-{name}"})

    def _relative(self, path: object) -> str | None:
        """The name below the root of a file that people edit; None for any other."""
        if not isinstance(path, str) or (path[:1] == "/" and not path.startswith(self._root[:-1])):
            return None
        full = os.path.abspath(path)
        if full.endswith(".pyc"):
            try:
                full = importlib.util.source_from_cache(full)
            except ValueError:
                return None
        if not full.startswith(self._root):
            return "" if full + os.sep == self._root else None
        name = full[len(self._root) :]
        hidden = (name.startswith(".") and os.sep in name) or f"{os.sep}." in name
        return None if hidden or "site-packages" in name or "__pycache__" in name else name

    def _send(self, names: Iterable[str]) -> None:
        ordered = sorted(names)
        for first in range(0, len(ordered), NAMES_AT_ONCE):
            notify(X_FILES=json.dumps(ordered[first : first + NAMES_AT_ONCE]))


def _is_for_writing(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


_tracker: Tracker | None = None
# In a fork: what the fork server has imported, and what was told since.
_modules: set[str] | None = None


def note_fork() -> None:
    """This process is a fork of one that has imported what is in `sys.modules` now."""
    global _modules
    _modules = set(sys.modules)


def track() -> None:
    """Begin to listen for files, if the supervisor wants to hear of them."""
    global _tracker
    root = os.environ.get(RELOAD_ROOT)
    if root and _tracker is None:
        _tracker = Tracker(Path(root))


def tell() -> None:
    """Tell the files read and the packages imported so far."""
    if _tracker:
        _tracker.tell()
    tell_modules()


def tell_modules() -> None:
    """Tell which modules from outside the project the fork server should have imported."""
    if _modules is None:
        return
    root = os.getcwd() + os.sep
    new = [name for name in list(sys.modules) if name not in _modules and _is_foreign(name, root)]
    _modules.update(new)
    for first in range(0, len(new), NAMES_AT_ONCE):
        notify(X_MODULES=json.dumps(new[first : first + NAMES_AT_ONCE]))


def _is_foreign(name: str, root: str) -> bool:
    spec = getattr(sys.modules[name], "__spec__", None)
    if spec is None or not spec.has_location:
        return spec is not None and name not in sys.builtin_module_names
    return "site-packages" in str(spec.origin) or not str(spec.origin).startswith(root)
