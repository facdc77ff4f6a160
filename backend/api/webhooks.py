"""The resource /webhooks: addresses that are told what happens to runs, and what became of each delivery."""

from __future__ import annotations

import os
from base64 import b64encode
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, Field
from yarl import URL

from backend.api.access import Caller, Permission, needs
from backend.api.body import Body, JsonRoute, example
from backend.api.graphs import existing_graph
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Services, Use
from backend.blocks._addresses import plain
from backend.blocks.block import BlockError
from backend.errors import (
    InvalidCursor,
    TooLarge,
    UnknownDelivery,
    UnknownGraph,
    UnknownWebhook,
    Unprocessable,
    UnsupportedMediaType,
    WebhookInactive,
)
from backend.store import deliveries, webhooks
from backend.store.connection import Queryable
from backend.store.deliveries import StoredDelivery
from backend.store.identifiers import new_id
from backend.store.sealing import sealer
from backend.store.webhooks import Changes, StoredWebhook

router = APIRouter(prefix="/api/v2/webhooks", tags=["webhooks"], route_class=JsonRoute)

SECRET_BYTES = 32

WebhookEvent = Literal["run.started", "run.paused", "run.review", "run.completed", "run.failed", "run.terminated"]
# What a webhook is told of if nothing is said.
ENDS: list[WebhookEvent] = ["run.completed", "run.failed", "run.terminated"]

DeliveryStatus = Literal["PENDING", "DELIVERED", "FAILED"]


def _address(text: str) -> str:
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("it has to begin with http:// or https:// and name a host")
    if url.user is not None or url.password is not None:
        raise ValueError("it may hold no user name and no password")
    if not url.host.isprintable() or not text.isprintable() or " " in text:
        raise ValueError("it holds characters that no URL has")
    return text


WebhookUrl = Annotated[
    str,
    Field(max_length=2000, description="http:// or https://", examples=["https://example.com/hooks"]),
    AfterValidator(_address),
]
WebhookEvents = Annotated[
    list[WebhookEvent],
    Field(min_length=1, max_length=20, description="what to tell of; by default every end of a run"),
]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$", examples=["tells the team"])]

Reads = Annotated[Caller, needs(Permission.READ_WEBHOOK)]
Writes = Annotated[Caller, needs(Permission.WRITE_WEBHOOK)]


class NewWebhook(Body):
    """Where to tell what happens to runs, and of what."""

    url: WebhookUrl
    events: WebhookEvents = ENDS
    graph_id: Annotated[UUID, Field(strict=False)] | None = Field(default=None, description="only runs of this graph")
    active: bool = True
    description: Description = ""

    model_config = example(url="https://example.com/hooks", events=["run.failed"])


class WebhookChanges(Body):
    """What is left out, or null, stays as it is."""

    url: WebhookUrl | None = None
    events: WebhookEvents | None = None
    active: bool | None = Field(default=None, description="false fails what waits; true begins anew")
    description: Description | None = None

    model_config = example(active=True)


class Webhook(BaseModel):
    """An address that is told what happens to runs."""

    id: UUID
    url: str
    events: list[str]
    graph_id: UUID | None = Field(description="the only graph whose runs it is told of; null: all")
    active: bool
    description: str
    disabled_reason: str | None = Field(description="why it was switched off, if nobody did it")
    failing_since: datetime | None = Field(description="when the first attempt failed of those of which none succeeded")
    created_at: datetime


class WebhookWithSecret(Webhook):
    """A webhook with the secret that its deliveries are signed with, which is not shown again."""

    secret: str = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])


class Delivery(BaseModel):
    """What a webhook is told, and what came of the last attempt."""

    id: UUID = Field(description="the `webhook-id` of every attempt")
    webhook_id: UUID
    event_type: str = Field(examples=["run.completed"])
    run_id: UUID | None = Field(description="null for a test")
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None = Field(description="null when it is over; while an attempt is made, its limit")
    last_attempt_at: datetime | None
    duration_ms: int | None = Field(description="how long the last attempt took")
    response_status: int | None
    response_excerpt: str | None = Field(description="the beginning of the receiver's answer")
    error: str | None = Field(description="why the last attempt failed")
    created_at: datetime


@router.post(
    "",
    status_code=201,
    operation_id="create_webhook",
    summary="Create a webhook",
    responses=documented(UnknownGraph, TooLarge, UnsupportedMediaType)
    | {
        201: {
            "links": links("webhook_id", "get_webhook", "change_webhook", "test_webhook", "delete_webhook"),
            "description": "it is told from now on",
        }
    },
)
async def create(body: NewWebhook, use: Use, response: Response, caller: Writes) -> WebhookWithSecret:
    """The answer has the secret, which is not shown again."""
    check_reachable(body.url, use)
    if body.graph_id:
        await existing_graph(use.database, caller.user_id, body.graph_id, None)
    id = new_id()
    secret, sealed = new_secret(id, use)
    fields = body.model_dump(exclude={"url", "events"})
    stored = await webhooks.insert(use.database, id, caller.user_id, body.url, body.events, sealed, **fields)
    response.headers["Location"] = f"{router.prefix}/{id}"
    return WebhookWithSecret(secret=secret, **_fields(stored))


def check_reachable(url: str, use: Services, pointer: str = "/url") -> None:
    """Raises Unprocessable for an address that may not be reached; a name is looked up at each attempt."""
    try:
        plain(URL(url), tuple(map(str.lower, use.settings.trusted_hosts)))
    except BlockError as error:
        faults = [{"pointer": pointer, "code": "private_address", "message": str(error)}]
        raise Unprocessable(f"{pointer}: {error}", errors=faults) from None


def new_secret(webhook_id: UUID, use: Services) -> tuple[str, bytes]:
    """A secret for a webhook as its receiver is told it, and sealed to be stored."""
    secret = os.urandom(SECRET_BYTES)
    seal = sealer(use.settings)
    return f"whsec_{b64encode(secret).decode()}", seal.seal(secret, webhooks.sealed_for(webhook_id))


@router.get(
    "", operation_id="list_webhooks", summary="List the webhooks, newest first", responses=documented(InvalidCursor)
)
async def list_(use: Use, after: After, caller: Reads, limit: Limit = 20) -> Page[Webhook]:
    rows = await webhooks.page(use.database, caller.user_id, limit=limit + 1, before=after)
    shown, next_cursor = cut(rows, limit)
    total = await webhooks.count(use.database, caller.user_id)
    return Page(items=[_webhook(row) for row in shown], next_cursor=next_cursor, total_count=total)


@router.get(
    "/{webhook_id:uuid}", operation_id="get_webhook", summary="Show a webhook", responses=documented(UnknownWebhook)
)
async def show(webhook_id: UUID, use: Use, caller: Reads) -> Webhook:
    return _webhook(await _existing(use.database, caller, webhook_id))


@router.patch(
    "/{webhook_id:uuid}",
    operation_id="change_webhook",
    summary="Change a webhook, or switch it on or off",
    responses=documented(UnknownWebhook, TooLarge, UnsupportedMediaType),
)
async def change(webhook_id: UUID, body: WebhookChanges, use: Use, caller: Writes) -> Webhook:
    """What waits to be delivered goes to the new address. One that is switched off loses what waits."""
    if body.url is not None:
        check_reachable(body.url, use)
    changes = Changes(**body.model_dump(exclude_none=True))
    stored = await webhooks.change(use.database, caller.user_id, webhook_id, **changes)
    return _webhook(stored or _refuse(webhook_id))


@router.delete(
    "/{webhook_id:uuid}",
    status_code=204,
    operation_id="delete_webhook",
    summary="Delete a webhook",
    responses=documented(UnknownWebhook),
)
async def delete(webhook_id: UUID, use: Use, caller: Writes) -> None:
    """It goes with its deliveries."""
    if not await webhooks.delete(use.database, caller.user_id, webhook_id):
        _refuse(webhook_id)


@router.post(
    "/{webhook_id:uuid}/rotate-secret",
    operation_id="rotate_webhook_secret",
    summary="Replace the secret of a webhook",
    responses=documented(UnknownWebhook),
)
async def rotate(webhook_id: UUID, use: Use, caller: Writes) -> WebhookWithSecret:
    """For 24 hours every delivery is signed with both, the new and the old: change the receiver in the meantime."""
    secret, sealed = new_secret(webhook_id, use)
    stored = await webhooks.replace_secret(use.database, caller.user_id, webhook_id, sealed)
    return WebhookWithSecret(secret=secret, **_fields(stored or _refuse(webhook_id)))


@router.post(
    "/{webhook_id:uuid}/test",
    status_code=202,
    operation_id="test_webhook",
    summary="Deliver a test",
    responses=documented(UnknownWebhook, WebhookInactive),
)
async def test(webhook_id: UUID, use: Use, caller: Writes) -> Delivery:
    """The answer is the delivery, which is queued: look at it again to see what came of it."""
    await _active(use.database, caller, webhook_id)
    return _delivery(await deliveries.insert_test(use.database, new_id(), caller.user_id, webhook_id))


@router.get(
    "/{webhook_id:uuid}/deliveries",
    operation_id="list_webhook_deliveries",
    summary="List the deliveries of a webhook, newest first",
    responses=documented(UnknownWebhook, InvalidCursor),
)
async def list_deliveries(
    webhook_id: UUID,
    use: Use,
    after: After,
    caller: Reads,
    limit: Limit = 20,
    status: Annotated[DeliveryStatus | None, Query(description="only deliveries in this status")] = None,
) -> Page[Delivery]:
    """They are kept for 30 days."""
    await _existing(use.database, caller, webhook_id)
    rows = await deliveries.page(use.database, webhook_id, limit=limit + 1, before=after, status=status)
    shown, next_cursor = cut(rows, limit)
    total = await deliveries.count(use.database, webhook_id, status=status)
    return Page(items=[_delivery(row) for row in shown], next_cursor=next_cursor, total_count=total)


@router.get(
    "/{webhook_id:uuid}/deliveries/{delivery_id:uuid}",
    operation_id="get_webhook_delivery",
    summary="Show a delivery",
    responses=documented(UnknownWebhook, UnknownDelivery),
)
async def show_delivery(webhook_id: UUID, delivery_id: UUID, use: Use, caller: Reads) -> Delivery:
    await _existing(use.database, caller, webhook_id)
    stored = await deliveries.get(use.database, webhook_id, delivery_id)
    return _delivery(stored or _refuse_delivery(delivery_id))


@router.post(
    "/{webhook_id:uuid}/deliveries/{delivery_id:uuid}/redeliver",
    status_code=202,
    operation_id="redeliver_webhook",
    summary="Deliver again",
    responses=documented(UnknownWebhook, UnknownDelivery, WebhookInactive),
)
async def redeliver(webhook_id: UUID, delivery_id: UUID, use: Use, caller: Writes) -> Delivery:
    """It begins anew, whatever came of it before, with the same `webhook-id`."""
    await _active(use.database, caller, webhook_id)
    stored = await deliveries.redeliver(use.database, webhook_id, delivery_id)
    return _delivery(stored or _refuse_delivery(delivery_id))


async def _existing(database: Queryable, caller: Caller, webhook_id: UUID) -> StoredWebhook:
    return await webhooks.get(database, caller.user_id, webhook_id) or _refuse(webhook_id)


async def _active(database: Queryable, caller: Caller, webhook_id: UUID) -> None:
    stored = await _existing(database, caller, webhook_id)
    if not stored.active:
        raise WebhookInactive(f"The webhook {webhook_id} is switched off: switch it on first, by `active`.")


def _refuse(webhook_id: UUID) -> NoReturn:
    raise UnknownWebhook(f"There is no webhook {webhook_id}.")


def _refuse_delivery(delivery_id: UUID) -> NoReturn:
    raise UnknownDelivery(f"The webhook has no delivery {delivery_id}; they are kept for {deliveries.KEPT_DAYS} days.")


def _fields(stored: StoredWebhook) -> dict[str, Any]:
    return {name: getattr(stored, name) for name in StoredWebhook.__slots__}


def _webhook(stored: StoredWebhook) -> Webhook:
    return Webhook(**_fields(stored))


def _delivery(stored: StoredDelivery) -> Delivery:
    return Delivery(**{name: getattr(stored, name) for name in StoredDelivery.__slots__})
