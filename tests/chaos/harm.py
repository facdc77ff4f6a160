"""Does to the processes of an environment what the world does: kills them, stops them for a while, at random."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from backend.process import roster
from backend.process.roster import UnitState
from backend.store.connection import PASSING

# What is done to whom, and how often compared with the rest. `postgres` is the postmaster, `db` the process beside it.
HARMS = {
    ("kill", "executor"): 8,
    ("pause", "executor"): 4,
    ("stop", "executor"): 2,
    ("kill", "rest"): 2,
    ("kill", "scheduler"): 2,
    ("pause", "scheduler"): 1,
    ("kill", "db"): 1,
    ("kill", "postgres"): 2,
    ("pause", "postgres"): 1,
}
# Seconds.
BETWEEN = (0.3, 2.0)
PAUSES = (1.0, 6.0)


@dataclass
class Death:
    """An executor that went without a word while the database lived, and the runs it had, each with its attempt."""

    at: float
    runs: dict[UUID, int]


@dataclass
class Harm:
    """Harms the environment of `data` by chance alone, so the same seed hurts in the same order."""

    data: Path
    dsn: str
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter[str])
    deaths: list[Death] = field(default_factory=list[Death])
    # When the database was hurt.
    blows: list[float] = field(default_factory=list[float])

    async def for_seconds(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as pauses:
            while time.monotonic() < end:
                await asyncio.sleep(self.chance.uniform(*BETWEEN))
                [(how, whom)] = self.chance.choices(list(HARMS), list(HARMS.values()))
                if pause := await self._hurt(how, whom, self.chance.random(), self.chance.uniform(*PAUSES)):
                    pauses.create_task(pause)

    async def _hurt(self, how: str, whom: str, which: float, seconds: float):
        pids = self._pids(whom)
        if not pids:  # it is just being started again
            return None
        pid = pids[int(which * len(pids))]
        if whom in ("db", "postgres"):
            self.blows.append(time.time())
        elif whom == "executor" and how != "stop":
            await self._note_death(pid)
        self.done[f"{how} {whom}"] += 1
        number = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "stop": signal.SIGTERM}[how]
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return _go_on(pid, seconds) if how == "pause" else None

    def _pids(self, whom: str) -> list[int]:
        """Of those who live: the number of one that is gone may soon be somebody else's."""
        if whom == "postgres":
            return self._postmaster()
        told = roster.read(self.data / "run")
        alive = [unit for unit in told.units if unit.state is UnitState.RUNNING] if told else []
        return [unit.pid for unit in alive if unit.name.startswith(whom)]

    def _postmaster(self) -> list[int]:
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "postgres" / "postmaster.pid").read_text().split()[0])
            if "postgres" in Path(f"/proc/{pid}/cmdline").read_text():
                return [pid]
        return []

    async def _note_death(self, pid: int) -> None:
        """Before it dies: what it has now it may have until then."""
        with suppress(*PASSING, asyncpg.PostgresError):
            connection = await asyncpg.connect(self.dsn, timeout=2)
            try:
                rows = await connection.fetch(OWNED, f"%:{pid}", timeout=2)
            finally:
                connection.terminate()
            self.deaths.append(Death(time.time(), {row["id"]: row["attempt"] for row in rows}))


OWNED = """
    SELECT runs.id, attempt FROM runs JOIN executors ON executors.id = runs.executor
    WHERE executors.name LIKE $1 AND status = 'RUNNING'
"""


async def _go_on(pid: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
