"""Sharing the outputs of a run with people who have no key: by a token that nobody can guess."""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.problem import documented
from backend.api.run_model import Status
from backend.api.runs import existing_run
from backend.api.services import Use
from backend.errors import UnknownRun, UnknownShare
from backend.store import events, graphs, runs

TOKEN_BYTES = 32
TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")

router = APIRouter(prefix="/api/v2", tags=["runs"])

Sharer = Annotated[Caller, needs(Permission.READ_RUN, Permission.SHARE_RUN)]


class Share(BaseModel):
    """Whoever has the address sees the outputs of the run."""

    share_url: str = Field(examples=["http://127.0.0.1:8006/api/v2/shared/TOKEN"])
    share_token: str


class SharedRun(BaseModel):
    """All that is to be seen of a run that is shared."""

    graph_name: str | None
    status: Status
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    outputs: dict[str, list[Any]]


@router.post(
    "/runs/{run_id:uuid}/share",
    status_code=201,
    operation_id="share_run",
    summary="Share the outputs of a run",
    responses=documented(UnknownRun) | {200: {"model": Share, "description": "it was shared already"}},
)
async def share(run_id: UUID, use: Use, caller: Sharer, request: Request, response: Response) -> Share:
    """A run that is shared already keeps its address; to change it, end the sharing first."""
    await existing_run(use.database, caller, run_id)
    new = secrets.token_urlsafe(TOKEN_BYTES)
    earlier = await runs.share(use.database, run_id, new)
    response.status_code = 200 if earlier else 201
    token = earlier or new
    return Share(share_url=f"{request.base_url}api/v2/shared/{token}", share_token=token)


@router.delete(
    "/runs/{run_id:uuid}/share",
    status_code=204,
    operation_id="unshare_run",
    summary="End the sharing of a run",
    responses=documented(UnknownRun),
)
async def unshare(run_id: UUID, use: Use, caller: Sharer) -> None:
    await existing_run(use.database, caller, run_id)
    await runs.unshare(use.database, run_id)


# Public: it has no caller. Nothing is told but what SharedRun has.
@router.get(
    "/shared/{token}",
    operation_id="get_shared_run",
    summary="Show what is shared",
    responses=documented(UnknownShare),
)
async def show(token: str, use: Use, response: Response) -> SharedRun:
    """Needs no key: the token is one."""
    response.headers["Cache-Control"] = "no-store"
    run = await runs.shared(use.database, token) if TOKEN.fullmatch(token) else None
    if run is None:
        raise UnknownShare("Nothing is shared by this token, or not any more.")
    return SharedRun(
        graph_name=await graphs.name_of(use.database, run.user_id, run.graph_id, run.graph_version),
        status=run.status,  # pyright: ignore[reportArgumentType] - pydantic checks it
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        outputs=(await events.outputs_of(use.database, [run.id])).get(run.id, {}),
    )
