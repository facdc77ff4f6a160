"""Tells which files of a folder were saved: by inotify within a millisecond, elsewhere by watchfiles."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import suppress
from pathlib import Path

NOT_OURS = {"node_modules", "__pycache__", "venv"}
# Seconds after the first event until the others of the same save are there: editors rename, and delete, and write.
SETTLE = 0.002
# Kinds of file systems on which other machines write, of which the kernel tells nothing.
REMOTE = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "vboxsf",
    "fuse.sshfs",
    "fuse.osxfs",
    "fuse.grpcfuse",
    "virtiofs",
}
# Milliseconds between two looks of watchfiles, and the longest it collects.
LOOK = 10
COLLECT = 200


async def saves(root: Path, ignored: Collection[Path], packages: Collection[Path]) -> AsyncGenerator[set[Path]]:
    """Yield the paths of files below `root` that were written, moved or deleted, whenever there are any.

    Hidden folders, those in `ignored`, and environments are left out. Of `packages` only the folders themselves are
    watched: what is installed appears there.
    """
    if sys.platform == "linux" and _file_system(root) not in REMOTE:
        with suppress(OSError):  # the limit of watches or instances is reached: look instead of being told
            async for paths in _by_inotify(root, ignored, packages):
                yield paths
    async for paths in _by_watchfiles(root, ignored):
        yield paths


async def _by_inotify(root: Path, ignored: Collection[Path], packages: Collection[Path]) -> AsyncGenerator[set[Path]]:
    with Inotify(ignored) as inotify:
        inotify.watch_below(root)
        for folder in packages:
            inotify.watch(folder)
        while True:
            if saved := await inotify.read(root):
                yield saved


class Inotify:
    """The kernel's reports on folders. Raises OSError where a limit of the system is reached."""

    def __init__(self, ignored: Collection[Path]) -> None:
        import inotify_simple  # noqa: PLC0415 - only where files are watched, on Linux

        self._flags = flags = inotify_simple.flags
        self._wanted = flags.CLOSE_WRITE | flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
        self._ignored = ignored
        self._folders: dict[int, Path] = {}
        self._readable = asyncio.Event()
        self._inotify = inotify_simple.INotify(nonblocking=True)
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable.set)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()

    def watch(self, folder: Path) -> None:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # it is gone again, or another's
            self._folders[self._inotify.add_watch(folder, self._wanted | self._flags.ONLYDIR)] = folder

    def watch_below(self, folder: Path) -> None:
        for each in _folders(folder, self._ignored):
            self.watch(each)

    async def read(self, root: Path) -> set[Path]:
        """Wait for reports; the files they are about, if any."""
        await self._readable.wait()
        await asyncio.sleep(SETTLE)
        self._readable.clear()
        saved: set[Path] = set()
        for event in self._inotify.read(timeout=0):
            if event.mask & self._flags.Q_OVERFLOW:
                saved.update(_files(root, self._ignored))
            elif event.mask & self._flags.IGNORED:
                self._folders.pop(event.wd, None)
            elif event.wd in self._folders:
                saved.update(self._files_of(self._folders[event.wd] / event.name, event.mask))
        return saved

    def _files_of(self, path: Path, mask: int) -> set[Path]:
        appeared = mask & (self._flags.CREATE | self._flags.MOVED_TO)
        if mask & self._flags.ISDIR:
            if not _is_ours(path, self._ignored):
                return set()
            if not appeared:
                return {path}
            self.watch_below(path)
            return _files(path, self._ignored)
        # What was just created is empty; its writing is told when it is closed.
        return set() if mask & self._flags.CREATE and not path.is_symlink() else {path}


async def _by_watchfiles(root: Path, ignored: Collection[Path]) -> AsyncGenerator[set[Path]]:
    import watchfiles  # noqa: PLC0415 - only where it is needed

    polling = sys.platform == "linux"
    known: set[Path] | None = None
    while True:
        folders = set(_folders(root, ignored))
        if known is not None and (found := {path for each in folders - known for path in each.iterdir()}):
            yield found
        known = folders
        changes: AsyncGenerator[set[tuple[watchfiles.Change, str]]] = watchfiles.awatch(  # pyright: ignore
            *folders,
            watch_filter=None,
            debounce=COLLECT,
            step=LOOK,
            recursive=False,
            force_polling=polling,
            ignore_permission_denied=True,
        )
        async for saved in changes:
            paths = {Path(path) for _, path in saved}
            yield {path for path in paths if not path.is_dir()}
            if any(path.is_dir() and path not in known and _is_ours(path, ignored) for path in paths):
                break  # a new folder: begin again with it


def _folders(root: Path, ignored: Collection[Path]) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        names[:] = [name for name in names if _is_ours(Path(folder, name), ignored)]
        yield Path(folder)


def _files(root: Path, ignored: Collection[Path]) -> set[Path]:
    return {path for folder in _folders(root, ignored) for path in folder.iterdir() if path.is_file()}


def _is_ours(folder: Path, ignored: Collection[Path]) -> bool:
    return not folder.name.startswith(".") and folder.name not in NOT_OURS and folder not in ignored


def _file_system(folder: Path) -> str:
    """The kind of the file system that holds `folder`; of the mounts above it, the deepest counts."""
    kind, longest = "", -1
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, this, *_ = line.split()
            if folder.is_relative_to(place) and len(place) >= longest:
                kind, longest = this, len(place)
    return kind
