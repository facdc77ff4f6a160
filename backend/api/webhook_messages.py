"""What webhooks are told, for the OpenAPI document: the notifier sends it (execution/webhook_message.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from backend.api.run_model import Failure, Status

router = APIRouter(tags=["webhooks"])


class ToldRun(BaseModel):
    """The run that something happened to."""

    run_id: UUID
    status: Status
    graph_id: UUID
    graph_version: int
    parent_run_id: UUID | None
    started_at: datetime | None


class DeletedRun(BaseModel):
    """Of a run that was deleted before this could be told, nothing more is known."""

    run_id: UUID
    status: Status | None
    graph_id: None
    graph_version: None
    parent_run_id: None
    started_at: None
    deleted: Literal[True]


class EndedRun(ToldRun):
    """How a run ended, and what it put out."""

    ended_at: datetime
    duration_seconds: float | None
    error: str | None = Field(description="why it FAILED")
    failure: Failure | None
    outputs: dict[str, list[Any]] = Field(description="up to 16 KiB each, and 64 KiB together")
    outputs_complete: bool = Field(description="false if any is left out: get the run")


class AskedReview(BaseModel):
    """What a person is asked to decide."""

    node_exec_id: UUID
    node_id: str
    instructions: str
    editable: bool
    payload: Any = Field(default=None, description="up to 64 KiB; a larger one is left out")


class AskingRun(ToldRun):
    """A run that waits for a decision."""

    review: AskedReview


class Tested(BaseModel):
    """The webhook that was tested."""

    webhook_id: UUID


class _Message(BaseModel):
    timestamp: datetime = Field(description="when it happened")


class RunEnded(_Message):
    """A run has ended."""

    type: Literal["run.completed", "run.failed", "run.terminated"]
    data: EndedRun | DeletedRun


class RunChanged(_Message):
    """A run has begun, or rests."""

    type: Literal["run.started", "run.paused"]
    data: ToldRun | DeletedRun


class RunAsks(_Message):
    """A run, or one below it, asks a person to decide."""

    type: Literal["run.review"]
    data: AskingRun | DeletedRun


class WebhookTested(_Message):
    """Somebody wanted to see whether the webhook works."""

    type: Literal["webhook.test"]
    data: Tested


MESSAGES: dict[str, type[_Message]] = {
    "run.completed": RunEnded,
    "run.failed": RunEnded,
    "run.terminated": RunEnded,
    "run.started": RunChanged,
    "run.paused": RunChanged,
    "run.review": RunAsks,
    "webhook.test": WebhookTested,
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "it has been received, as after any 2xx within ten seconds"},
    410: {"description": "nothing more is to be told: the webhook is switched off"},
    "default": {"description": "it has not been received: it is told again, for about three days"},
}


def _describe(event_type: str, message: type[_Message]) -> None:
    """Put a message into the document. It is never called here: others receive it."""

    async def receive(
        body: BaseModel,
        webhook_id: Annotated[str, Header(description="the same at each attempt")],
        webhook_timestamp: Annotated[str, Header(description="of the attempt, in seconds since 1970")],
        webhook_signature: Annotated[str, Header(description="as Standard Webhooks says; two after `rotate-secret`")],
    ) -> None: ...

    receive.__annotations__["body"] = message
    router.post(
        event_type,
        operation_id=f"on_{event_type.replace('.', '_')}",
        summary=(message.__doc__ or "").rstrip("."),
        description="Is posted to the webhooks that are told of it; those that a run was started with, too.",
        responses=ANSWERS,
        response_class=Response,
    )(receive)


for each in MESSAGES.items():
    _describe(*each)
