"""Answers saves: exchanges the processes that have the code, and says once how it went."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from backend.process.failure import Failure, sentence
from backend.process.launch import Launcher
from backend.process.unit import Exchange, Unit
from backend.process.watching import saves

# What counts where nobody has told that he reads it: anything else (logs, databases) may be written all the time.
CODE = {".py", ".html", ".jinja", ".j2", ".css", ".js", ".sql", ".json", ".yaml", ".yml", ".toml"}
# Seconds without a save that end a burst (a checkout of another branch, a formatter at work), and an installation.
BURST_OVER = 0.05
INSTALLATION_OVER = 1.0
# For terminals; where there is none they are left out.
GREEN, RED, END = "\033[32m", "\033[31m", "\033[0m"


class Crew(Protocol):
    """Those whose processes are exchanged."""

    launcher: Launcher

    def units(self) -> list[Unit]: ...

    def say(self, text: str) -> None: ...

    def note_change(self) -> None: ...


class Reload:
    """Watches `root`. `on_configuration` answers a save of the Procfile or of .env with the units that it concerns."""

    def __init__(
        self, crew: Crew, root: Path, ignored: Collection[Path], on_configuration: Callable[[set[str]], set[Unit]]
    ) -> None:
        self._crew = crew
        self._root = root
        self._ignored = ignored
        self._on_configuration = on_configuration
        self._saved: set[str] = set()
        self._meanwhile: set[str] = set()
        self._news = asyncio.Event()
        self._installed = False
        # What no process can take in while the supervisor itself runs on.
        package = (__package__ or "").partition(".")[0]
        loaded = [Path(str(m.__file__)) for name, m in sys.modules.items() if name.partition(".")[0] == package]
        self._own = {str(path.relative_to(root)) for path in loaded if path.is_relative_to(root)}

    async def forever(self) -> None:
        """Until it is cancelled."""
        watcher = asyncio.create_task(self._watch())
        watcher.add_done_callback(self._note_end_of_watching)
        try:
            while True:
                await self._news.wait()
                began = time.monotonic()
                saved = self._take()
                try:
                    await self._answer(saved, self._concerned(saved), began)
                except Exception as error:  # of ours; the next save is not to be lost for it
                    self._crew.say(f"{listed(sorted(saved))} could not be taken in: {sentence(error)}")
        finally:
            watcher.cancel()

    def _note_end_of_watching(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled():
            self._crew.say(f"Saves are no longer seen: {watcher.exception()}. Start this again to have them seen.")

    async def _watch(self) -> None:
        packages = [Path(each) for each in sys.path if each.endswith("site-packages")]
        async for paths in saves(self._root, self._ignored, packages):
            names = {str(path.relative_to(self._root)) for path in paths if path.is_relative_to(self._root)}
            self._installed |= len(names) < len(paths) and any(path.parent in packages for path in paths)
            for path in paths:
                _forget_compiled(path)
            self._saved |= {name for name in names if not _is_hidden(name)}
            if self._saved or self._installed:
                self._news.set()

    def _take(self) -> set[str]:
        self._news.clear()
        saved, self._saved = self._saved, set()
        return saved

    def _concerned(self, saved: set[str]) -> set[Unit]:
        if self._installed:
            return {unit for unit in self._crew.units() if unit.notifies}
        return self._on_configuration(saved) | self._readers(saved)

    def _readers(self, saved: set[str]) -> set[Unit]:
        code = {name for name in saved if Path(name).suffix in CODE}
        return {unit for unit in self._crew.units() if unit.concerned(saved, code)}

    async def _answer(self, saved: set[str], units: set[Unit], began: float) -> None:
        while units:
            if self._installed:
                await self._until_quiet(INSTALLATION_OVER)
                self._installed = False
                self._crew.launcher.renew()
                self._crew.say("The installed packages have changed.")
            overtaken = asyncio.Event()
            ordered = [unit for unit in self._crew.units() if unit in units]
            exchanges = [asyncio.create_task(unit.exchange(overtaken)) for unit in ordered]
            more = await self._unless_overtaken(exchanges, overtaken)
            results = await asyncio.gather(*exchanges)
            if not more:
                self._show(saved, results, time.monotonic() - began)
                # What was saved meanwhile, and concerned nobody then, may be what the new ones have read.
                saved, self._meanwhile = self._meanwhile, set()
                units = {each.unit for each in results if each.done} & self._readers(saved)
                continue
            await self._until_quiet(BURST_OVER)
            newer = self._take()
            saved |= more | newer
            units = {each.unit for each in results if not each.done} | self._concerned(more | newer)

    async def _unless_overtaken(
        self, exchanges: Sequence[asyncio.Task[Exchange]], overtaken: asyncio.Event
    ) -> set[str]:
        """Wait for all, or until there are saves that concern anybody: these."""
        ended = asyncio.gather(*exchanges)
        while not ended.done():
            news = asyncio.ensure_future(self._news.wait())
            await asyncio.wait({ended, news}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if not ended.done() and self._news.is_set():
                saved = self._take()
                if self._concerned(saved):
                    overtaken.set()
                    return saved
                self._meanwhile |= saved
        return set()

    async def _until_quiet(self, seconds: float) -> None:
        kept: set[str] = set()
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                break
            kept |= self._take()
        self._saved |= kept

    def _show(self, saved: set[str], results: Sequence[Exchange], seconds: float) -> None:
        done = [each.unit.short_name for each in results if each.done]
        if done:
            read = {name for name in saved if any(name in (unit.files or ()) for unit in self._crew.units())} or saved
            what = min(read, default="packages") if len(read) <= 1 else f"{len(read)} files"
            self._crew.say(f"{GREEN}Reloaded {listed(done)}{END} in {seconds * 1000:.0f} ms ({what}).")
        self.show_failures({each.unit: each.failure for each in results if each.failure})
        if own := sorted(saved & self._own):
            self._own -= saved  # once is enough
            self._crew.say(f"This supervisor itself takes {listed(own)} in at its next start.")

    def show_failures(self, failures: Mapping[Unit, Failure]) -> None:
        """Show each error once, with all the processes it keeps from starting."""
        for failure in dict.fromkeys(failures.values()):
            units = [unit for unit in failures if failures[unit] == failure]
            serving = [unit for unit in units if unit.serves]
            names = listed([unit.short_name for unit in units])
            state = "the last good code goes on" if serving else "nothing older could go on"
            lines = [f"{RED}{failure.short}{END}", failure.excerpt, f"{names}: {state}; the next save is waited for."]
            self._crew.say("\n".join(filter(None, lines)))
        self._crew.note_change()


def listed(names: Sequence[str]) -> str:
    return "".join(names) if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts) and name != ".env"


def _forget_compiled(path: Path) -> None:
    """CPython would use the old one if the new source has the same size and was saved within the same second."""
    if path.suffix == ".py":
        with suppress(OSError):  # there is none, or it is another user's
            Path(importlib.util.cache_from_source(path)).unlink()
