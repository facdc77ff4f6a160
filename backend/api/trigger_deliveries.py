"""What is delivered to triggers: taken in, looked at afterwards, and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Unpack, cast
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from backend.api import signatures
from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute, check_content, is_json, media_type, parsed, read_bytes
from backend.api.middleware import request_id
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.api.signatures import Key, Kind
from backend.api.triggers import existing_trigger, open_secrets, runnable_graph, unknown_trigger
from backend.errors import (
    ApiError,
    GraphNotRunnable,
    InvalidCursor,
    InvalidInputs,
    InvalidSignature,
    MalformedJson,
    NotReplayable,
    SecretUnreadable,
    TooLarge,
    UnknownDelivery,
    UnknownGraph,
    UnknownTrigger,
    Unprocessable,
    UnsupportedMediaType,
)
from backend.execution.runnable import check_values, chosen_credentials
from backend.execution.triggering import values_for
from backend.store import runs, triggers
from backend.store.connection import Pool, Queryable
from backend.store.identifiers import new_id
from backend.store.runs import Begun
from backend.store.triggers import More, StoredDelivery, StoredTrigger

# Bytes of a body: that is taken, that is kept for a replay, and that is shown.
TAKEN = 1 << 20
KEPT = 256 << 10
SHOWN = 16 << 10

router = APIRouter(prefix="/api/v2/triggers/{trigger_id:uuid}", tags=["triggers"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_TRIGGER)]
Starter = Annotated[Caller, needs(Permission.WRITE_TRIGGER, Permission.RUN_AGENT)]

Outcome = Literal["STARTED", "FAILED", "REFUSED", "PING"]


class Delivered(BaseModel):
    """What became of a delivery."""

    run_id: UUID | None = Field(description="the run that it began; null for a ping")
    delivery_id: UUID


class TriggerDelivery(BaseModel):
    """What came to a trigger, and what became of it."""

    id: UUID
    trigger_id: UUID
    headers: dict[str, str] = Field(description="without the values of those that may be secret")
    body: str = Field(description=f"its first {SHOWN:,} bytes as text")
    size: int = Field(description="of the whole body, in bytes")
    outcome: Outcome = Field(description="FAILED: no run could begin; REFUSED: by its signature")
    run_id: UUID | None
    error: str | None
    replay_of: UUID | None
    created_at: datetime


class Came(NamedTuple):
    """A request that delivers."""

    headers: Mapping[str, str]
    body: bytes


RUN = links("run_id", "get_run", "stop_run", at="/run_id")


@router.get(
    "/deliveries",
    operation_id="list_trigger_deliveries",
    summary="List what was delivered lately, newest first",
    responses=documented(UnknownTrigger, InvalidCursor),
)
async def list_(trigger_id: UUID, use: Use, caller: Reader, after: After, limit: Limit = 20) -> Page[TriggerDelivery]:
    """The last hundred."""
    await existing_trigger(use.database, trigger_id, caller)
    rows = await triggers.deliveries(use.database, trigger_id, limit=limit + 1, before=after)
    shown, next_cursor = cut(rows, limit)
    total = await triggers.count_deliveries(use.database, trigger_id)
    return Page(items=[_shown(each) for each in shown], next_cursor=next_cursor, total_count=total)


def _shown(delivery: StoredDelivery) -> TriggerDelivery:
    fields: dict[str, Any] = {name: getattr(delivery, name) for name in TriggerDelivery.model_fields}
    fields["body"] = delivery.body[:SHOWN].decode(errors="replace")
    return TriggerDelivery(**fields)


@router.post(
    "/deliveries/{delivery_id:uuid}/replay",
    status_code=202,
    operation_id="replay_trigger_delivery",
    summary="Begin another run with what was delivered",
    responses=documented(UnknownTrigger, UnknownDelivery, NotReplayable, UnknownGraph, GraphNotRunnable, InvalidInputs)
    | {202: {"links": RUN, "description": "the run is queued"}},
)
async def replay(trigger_id: UUID, delivery_id: UUID, use: Use, caller: Starter) -> Delivered:
    """By the trigger as it is now. What was refused by its signature cannot be, nor what is larger than is kept."""
    trigger = await existing_trigger(use.database, trigger_id, caller)
    before = await triggers.get_delivery(use.database, trigger_id, delivery_id)
    if before is None:
        raise UnknownDelivery(f"The trigger has no delivery {delivery_id} among its last ones.")
    if before.outcome in ("REFUSED", "PING"):
        raise NotReplayable(f"The delivery {delivery_id} cannot be replayed: it is {before.outcome}.")
    if len(before.body) < before.size:
        raise NotReplayable(f"The delivery {delivery_id} cannot be replayed: of its body only the beginning is kept.")
    delivered, _ = await _deliver(use.database, trigger, Came(before.headers, before.body), None, before.id)
    return delivered


@router.post(
    "/ingress/{token}",
    status_code=202,
    operation_id="deliver_to_trigger",
    summary="Deliver to a trigger",
    responses=documented(
        UnknownTrigger, InvalidSignature, TooLarge, UnsupportedMediaType, MalformedJson, UnknownGraph,
        GraphNotRunnable, InvalidInputs, SecretUnreadable,
    )
    | {
        200: {"model": Delivered, "description": "it was delivered before: the run of then; or it is a ping of GitHub"},
        202: {"links": RUN, "description": "the run is queued"},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The payload, up to 1 MiB.",
            "content": {
                "application/json": {"schema": {}, "example": {"action": "opened"}},
                "application/x-www-form-urlencoded": {"schema": {"type": "object"}, "example": {"a": "1"}},
            },
        },
    },
)  # fmt: skip
# Public: who delivers has no key, but knows the address, and signs.
async def ingress(trigger_id: UUID, token: str, use: Use, request: Request, response: Response) -> Delivered:
    """Needs no API key: the address is as good as one, and the delivery is signed."""
    trigger = await triggers.find(use.database, trigger_id)
    if trigger is None:
        raise unknown_trigger(trigger_id)
    known = open_secrets(use, trigger)
    if not signatures.equal(known.token, token):
        raise unknown_trigger(trigger_id)
    kind, came = cast("Kind", trigger.kind), Came(dict(request.headers), await read_bytes(request, TAKEN))
    try:
        signatures.verify(kind, known.secret, *came)
    except InvalidSignature as error:
        await _write_down(use.database, trigger, came, "REFUSED", error=error.detail)
        raise
    if kind == "github" and came.headers.get("x-github-event") == "ping":
        response.status_code = 200
        return Delivered(run_id=None, delivery_id=await _write_down(use.database, trigger, came, "PING"))
    try:
        delivered, is_new = await _deliver(use.database, trigger, came, signatures.key_of(kind, *came))
    except InvalidInputs as error:
        raise _for_strangers(error) from None
    response.status_code = 202 if is_new else 200
    return delivered


def _for_strangers(error: InvalidInputs) -> InvalidInputs:
    """Who delivers is not to learn which credentials the user has."""
    if any(problem["code"].endswith("_credentials") for problem in error.problems):
        return InvalidInputs("The agent cannot run: the credentials of the trigger are to be looked at.")
    return error


async def _deliver(
    pool: Pool, trigger: StoredTrigger, came: Came, key: Key | None, replay_of: UUID | None = None
) -> tuple[Delivered, bool]:
    """Begin a run, unless one with this key has begun; and whether it is a new one. A failure is written down, too."""
    failure, run_id = None, None
    async with pool.acquire() as connection, connection.transaction():
        # One after the other: two that are the same may come at once.
        locked = await triggers.find(connection, trigger.id, lock=True)
        if locked is None:
            raise unknown_trigger(trigger.id)
        if key and (before := await triggers.seen(connection, trigger.id, *key)):
            return Delivered(run_id=before.run_id, delivery_id=before.id), False
        try:
            run_id = await _begin(connection, locked, _payload(*came))
        except ApiError as error:
            failure = error
        outcome: Outcome = "FAILED" if failure else "STARTED"
        told = failure.detail if failure else None
        hash = key.hash if key else None
        id = await _write_down(
            connection, trigger, came, outcome, key=hash, run_id=run_id, error=told, replay_of=replay_of
        )
    if failure:
        raise failure
    return Delivered(run_id=run_id, delivery_id=id), True


async def _begin(connection: Queryable, trigger: StoredTrigger, payload: object) -> UUID:
    checked, stored = await runnable_graph(connection, trigger.user_id, trigger.graph_id, trigger.graph_version)
    inputs, masks = values_for(checked, trigger.inputs, trigger.payload_input, payload)
    check_values(checked, inputs, masks)
    credentials = await chosen_credentials(connection, trigger.user_id, checked.slots, trigger.credentials, masks)
    run = Begun(
        new_id(), trigger.user_id, stored.id, stored.version, inputs, masks or None, credentials=credentials,
        request_id=request_id(),
    )  # fmt: skip
    await runs.insert_begun(connection, [run])
    return run.id


def _payload(headers: Mapping[str, str], body: bytes) -> Any:
    content_type = headers.get("content-type")
    if is_json(content_type):
        if not body:
            raise MalformedJson("The body is empty: send JSON.")
        return parsed(body)
    if media_type(content_type) != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType(f"Content-Type is {content_type or 'missing'}: send JSON, or a form.")
    return _form(body)


def _form(body: bytes) -> Any:
    """The fields of a form; one that is there more than once is a list."""
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10_000)
    except ValueError:
        raise Unprocessable("The form cannot be read: it has to be UTF-8, of 10,000 fields at most.") from None
    form = {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    check_content(form)
    # As GitHub sends JSON in a form.
    return parsed(fields["payload"][0].encode()) if [*form] == ["payload"] else form


async def _write_down(
    connection: Queryable, trigger: StoredTrigger, came: Came, outcome: Outcome, **more: Unpack[More]
) -> UUID:
    kept = came.body if len(came.body) <= KEPT else came.body[:SHOWN]
    headers = signatures.without_secrets(came.headers)
    return await triggers.insert_delivery(connection, trigger.id, headers, kept, len(came.body), outcome, **more)
