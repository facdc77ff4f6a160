"""What watches over the server: /livez, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from backend.api.access import Caller, needs
from backend.api.problem import documented
from backend.api.services import Use
from backend.errors import Unavailable
from backend.process import roster, status
from backend.process.process import State
from backend.settings import Settings
from backend.store.connection import PASSING, Queryable

# Seconds the database has to answer.
PATIENCE = 2.0

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class ProcessState(BaseModel):
    """One process of this environment."""

    name: str
    state: State
    pid: int
    address: str | None


class FailedReload(BaseModel):
    """In development: newer code of these processes failed. What ran before goes on, if there was anything."""

    processes: list[str]
    sentence: str
    file: str | None
    line: int | None


class Ready(BaseModel):
    """The database answers, and no process of this environment is still starting."""

    status: Literal["ok"] = "ok"
    processes: list[ProcessState]
    failures: list[FailedReload] = []


# HEAD, as many that watch over servers ask so.
@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", summary="Is this process alive?")
async def livez() -> Alive:
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="readyz", summary="Does everything work?", responses=documented(Unavailable))
async def readyz(use: Use) -> Ready:
    statuses = await asyncio.to_thread(status.read, use.settings.data_dir / "run")
    # One that has stopped is shown, but is no reason to turn clients away: others may do its work. Nor is one that
    # starts beside its predecessor.
    serving = {each.name for each in statuses if each.state is State.RUNNING}
    starting = [each for each in statuses if each.state in (State.IDLE, State.INITIALIZING)]
    # What db does is seen by the database's own answer: its next process goes on with the same PostgreSQL.
    faults = [f"{each.name} is {each.state}" for each in starting if each.name not in serving | {"db"}]
    if not await _answers(use.database):
        faults.insert(0, "the database does not answer")
    if faults:
        raise Unavailable(f"Not ready: {', '.join(faults)}.", headers={"Retry-After": "1"})
    known = [ProcessState(name=one.name, state=one.state, pid=one.pid, address=one.address) for one in statuses]
    return Ready(processes=known, failures=await asyncio.to_thread(_failures, use.settings))


def _failures(settings: Settings) -> list[FailedReload]:
    """None in production: what they say is for those who write the code."""
    if settings.app_env == "production":
        return []
    return [
        FailedReload(
            processes=each.processes,
            sentence=each.failure.sentence,
            file=each.failure.file,
            line=each.failure.line,
        )
        for each in roster.held(settings.data_dir / "run")
    ]


async def _answers(database: Queryable) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            return await database.fetchval("SELECT 1") == 1
    except (TimeoutError, *PASSING):
        return False


FIGURES = {"schema": {"type": "string"}, "example": 'agent_server_runs{status="QUEUED"} 0.0\n'}


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": FIGURES}, "description": "the figures"}},
)
async def metrics(use: Use, _: Annotated[Caller, needs()]) -> Response:
    return Response(await use.metrics.exposition(use.database), media_type=CONTENT_TYPE_LATEST)
