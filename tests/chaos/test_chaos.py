"""Nothing is lost and nothing happens twice, whatever dies: real processes, under load, hurt at random.

`invoke test.chaos` looks for longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from backend.store import bundled
from backend.store.connection import connect
from tests.chaos.agents import kinds
from tests.chaos.harm import Harm
from tests.chaos.load import Load, World, serving
from tests.chaos.outcome import Outcome, outcome
from tests.journeys.environment import ROOT, Environment, ready, settings_for, started, until

SECONDS = 60 * float(os.environ.get("CHAOS_MINUTES", "0.2"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 10**6)
# Seconds in which all runs have to end, once nobody is hurt any more.
SETTLE_WITHIN = 60
# Seconds after a death in which its runs have to go on while the database lives. It takes 4; the machine may be busy.
RESCUED_WITHIN = 25

PROCFILE = """\
db: python -m backend.database
rest: python -m backend.rest
executor: python -m backend.executor
executor2: python -m backend.executor
executor3: python -m backend.executor
scheduler: python -m backend.scheduler
"""


@pytest.fixture
def environment(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Environment]:
    """All processes as in production, three executors among them. What they say is in the file `output`."""
    (tmp_path / "Procfile").write_text(PROCFILE)
    variables = settings_for(tmp_path, free_port, APP_ENV="production", TRUSTED_HOSTS="127.0.0.1", PYTHONPATH=str(ROOT))
    with (tmp_path / "output").open("wb") as output, started(variables, folder=tmp_path, output=output) as environment:
        yield environment


@pytest.mark.timeout(SECONDS + SETTLE_WITHIN + 120)
async def test_nothing_is_lost_and_nothing_happens_twice_whatever_is_killed(environment: Environment, tmp_path: Path):
    tell(seed=SEED, seconds=SECONDS)
    chance = random.Random(SEED)
    data = Path(environment.variables["DATA_DIR"])
    harm = Harm(data, bundled.dsn(data), random.Random(SEED))
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        serving(World(chance)) as world,
        aiohttp.ClientSession(environment.address, timeout=timeout, headers=environment.headers) as api,
    ):
        load = Load(api, chance)
        for kind in kinds(world.address):
            await load.store(kind)
        loading = asyncio.create_task(load.forever())
        await harm.for_seconds(SECONDS)
        loading.cancel()
        await asyncio.wait([loading])
        await asyncio.to_thread(until, lambda: ready(environment))
        found = await settled(harm.dsn)
    rescues = sorted(found.rescues(harm))
    tell(harm=dict(harm.done), accepted=len(load.accepted), refused=dict(load.refused), **found.figures())
    tell(rescued_after=[round(statistics.median(rescues or [0]), 1), round(max(rescues, default=0), 1)])
    assert list(found.faults(load.agents, load.accepted, world.received)) == []
    assert set(load.refused) <= {"no answer", "503 application/problem+json"}
    assert complaints(tmp_path / "output") == []
    assert [seconds for seconds in rescues if seconds > RESCUED_WITHIN] == []


async def settled(dsn: str) -> Outcome:
    """What is there once all runs have ended."""
    connection = await connect(dsn)
    deadline = time.monotonic() + SETTLE_WITHIN
    while left := await connection.fetchrow("SELECT * FROM runs WHERE ended_at IS NULL"):
        assert time.monotonic() < deadline, f"it has not ended: {dict(left)}"
        await asyncio.sleep(0.1)
    found = await outcome(connection)
    await connection.close()
    return found


def complaints(output: Path) -> list[dict[str, Any]]:
    """What processes were not prepared for, by their own words. The database's may complain of being killed."""
    told = [orjson.loads(line) for line in output.read_bytes().splitlines() if line.startswith(b"{")]
    errors = [line for line in told if line["level"] in ("error", "critical") or "exception" in line]
    return [line for line in errors if line.get("process") != "db"]


def tell(**figures: Any) -> None:
    """pytest shows it when the test fails, and with -s."""
    print("\n".join(f"  {title.replace('_', ' ')}: {figure}" for title, figure in figures.items()))  # noqa: T201
