"""The resource /triggers: addresses at which what other services deliver begins runs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, NamedTuple, cast
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from backend.api import signatures
from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.graphs import existing_graph
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.run_model import CredentialReference, References, kept_references
from backend.api.schedules import Credentials
from backend.api.services import Services, Use
from backend.api.signatures import Kind
from backend.errors import (
    GraphNotRunnable,
    InvalidCursor,
    InvalidInputs,
    SecretUnreadable,
    TooLarge,
    UnknownGraph,
    UnknownTrigger,
    Unprocessable,
    UnsupportedMediaType,
)
from backend.execution.runnable import CheckedGraph, check_values, chosen_credentials, runnable
from backend.execution.triggering import values_for
from backend.graphs.graph import MAX_VERSION
from backend.store import triggers
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph
from backend.store.identifiers import new_id
from backend.store.sealing import Sealer, WrongKey, sealer
from backend.store.triggers import Given, StoredTrigger

router = APIRouter(prefix="/api/v2/triggers", tags=["triggers"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_TRIGGER)]
Writer = Annotated[Caller, needs(Permission.WRITE_TRIGGER)]
Starter = Annotated[Caller, needs(Permission.WRITE_TRIGGER, Permission.RUN_AGENT)]

Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Pushes"])]
GraphVersion = Annotated[int, Field(ge=1, le=MAX_VERSION, description="null: the active one, each time")]
Inputs = Annotated[dict[str, Any], Field(description="values of inputs that are the same each time", examples=[{}])]
PayloadInput = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="the input that gets the payload, if the agent has no webhook node",
        examples=["Input"],
    ),
]
Secret = Annotated[
    str,
    Field(
        min_length=8,
        max_length=500,
        description="one that the sender has made; left out: a new one",
        examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    ),
]


class Verification(BaseModel):
    """How a delivery shows that it comes from who has the secret."""

    kind: Kind = Field(
        default="standard_webhooks",
        description="standard_webhooks (webhook-signature), github (X-Hub-Signature-256), token (X-Trigger-Token, or"
        " Authorization: Bearer), none (who knows the address)",
    )
    secret: Secret | None = None


class CreateTrigger(BaseModel):
    """Which agent a delivery runs, and with what."""

    name: Name
    graph_id: UUID
    graph_version: GraphVersion | None = None
    inputs: Inputs = {}
    credentials: Credentials = {}
    payload_input: PayloadInput | None = None
    verification: Verification = Verification()


class ChangeTrigger(BaseModel):
    """What is to be different; what is left out stays."""

    # A factory, unlike a default, is not shown: there is none.
    name: Name = Field(default_factory=str)
    graph_version: GraphVersion | None = None
    inputs: Inputs = Field(default_factory=dict[str, Any])
    credentials: Credentials = Field(default_factory=dict[str, CredentialReference])
    payload_input: PayloadInput | None = None


class NewSecret(BaseModel):
    """The secret from now on."""

    secret: Secret | None = None


class Verified(BaseModel):
    """How deliveries are verified."""

    kind: Kind


class Trigger(BaseModel):
    """A trigger. Its address is a secret, too."""

    id: UUID
    name: str
    graph_id: UUID
    graph_version: int | None
    inputs: dict[str, Any]
    credentials: References
    payload_input: str | None
    verification: Verified
    address: str = Field(description="where to deliver to, with POST")
    created_at: datetime


class TriggerWithSecret(Trigger):
    """A trigger with its secret, which is shown this once."""

    secret: str | None


WRONG = documented(UnknownGraph, TooLarge, UnsupportedMediaType, GraphNotRunnable, InvalidInputs, SecretUnreadable)


@router.post(
    "",
    status_code=201,
    operation_id="create_trigger",
    summary="Make an address that begins runs",
    responses=WRONG
    | {
        201: {
            "links": links(
                "trigger_id", "get_trigger", "list_trigger_deliveries", "rotate_trigger_secret", "delete_trigger"
            ),
            "description": "it is stored; the secret is shown this once",
        }
    },
)
async def create(
    body: CreateTrigger, use: Use, caller: Starter, request: Request, response: Response
) -> TriggerWithSecret:
    """What would keep every delivery from beginning a run is refused now."""
    secret = _secret(body.verification.kind, body.verification.secret, "/verification/secret")
    given = _given(body)
    await _check(use.database, caller.user_id, given)
    id = new_id()
    sealed = _seal(use, id, Secrets(secrets.token_urlsafe(24), secret))
    given |= {"kind": body.verification.kind, "sealed": sealed}
    stored = await triggers.insert(use.database, id, caller.user_id, **cast("Given", given))
    response.headers["Location"] = f"{router.prefix}/{stored.id}"
    return TriggerWithSecret(**_fields(use, request, stored), secret=secret)


def _secret(kind: Kind, given: str | None, pointer: str) -> str | None:
    if given is None:
        return signatures.new_secret(kind)
    if not signatures.is_secret(kind, given):
        told = "`none` takes no secret" if kind == "none" else "it has to be `whsec_` and Base64"
        error = {"pointer": pointer, "code": "invalid_secret", "message": told}
        raise Unprocessable(f"{pointer}: {told}", errors=[error])
    return given


def _given(body: CreateTrigger | ChangeTrigger) -> dict[str, Any]:
    given = body.model_dump(exclude_unset=isinstance(body, ChangeTrigger), exclude={"verification"})
    return given | ({"credentials": kept_references(body.credentials)} if "credentials" in given else {})


async def _check(database: Queryable, user_id: UUID, given: Mapping[str, Any]) -> None:
    """Raises an ApiError if no delivery could begin a run."""
    checked, _ = await runnable_graph(database, user_id, given["graph_id"], given["graph_version"])
    inputs, payload_input = given["inputs"], given["payload_input"]
    if payload_input is not None and payload_input not in checked.input_schema["properties"]:
        raise InvalidInputs(f"The agent has no input `{payload_input}` that the payload could go to.")
    values = values_for(checked, inputs, payload_input, {})
    try:
        check_values(checked, *values)
    except InvalidInputs as error:
        # What the payload may bring along, or has to be, is only seen when it is there.
        wrong = [each for each in error.problems if each["code"] != "missing_input" and each["pin"] in inputs]
        if wrong:
            raise InvalidInputs(" ".join(each["message"] for each in wrong), problems=wrong) from None
    await chosen_credentials(database, user_id, checked.slots, given["credentials"], values.masks)


async def runnable_graph(
    database: Queryable, user_id: UUID, id: UUID, version: int | None
) -> tuple[CheckedGraph, StoredGraph]:
    stored = await existing_graph(database, user_id, id, version)
    return await runnable(database, stored), stored


@router.get(
    "",
    operation_id="list_triggers",
    summary="List the triggers, newest first",
    responses=documented(InvalidCursor, SecretUnreadable),
)
async def list_(
    use: Use,
    caller: Reader,
    request: Request,
    after: After,
    limit: Limit = 20,
    graph_id: Annotated[UUID | None, Query(description="only triggers of this graph")] = None,
) -> Page[Trigger]:
    rows = await triggers.page(use.database, caller.user_id, limit=limit + 1, before=after, graph_id=graph_id)
    shown, next_cursor = cut(rows, limit)
    total = await triggers.count(use.database, caller.user_id, graph_id)
    items = [Trigger(**_fields(use, request, each)) for each in shown]
    return Page(items=items, next_cursor=next_cursor, total_count=total)


@router.get(
    "/{trigger_id:uuid}",
    operation_id="get_trigger",
    summary="Show a trigger",
    responses=documented(UnknownTrigger, SecretUnreadable),
)
async def show(trigger_id: UUID, use: Use, caller: Reader, request: Request) -> Trigger:
    return Trigger(**_fields(use, request, await existing_trigger(use.database, trigger_id, caller)))


@router.patch(
    "/{trigger_id:uuid}",
    operation_id="change_trigger",
    summary="Change a trigger",
    responses=documented(UnknownTrigger) | WRONG,
)
async def change(trigger_id: UUID, body: ChangeTrigger, use: Use, caller: Starter, request: Request) -> Trigger:
    """Its address and its secret stay as they are."""
    changes = _given(body)
    before = await existing_trigger(use.database, trigger_id, caller)
    if changes.keys() - {"name"}:
        await _check(use.database, caller.user_id, asdict(before) | changes)
    changed = await triggers.change(use.database, trigger_id, caller.user_id, **cast("Given", changes))
    if changed is None:
        raise unknown_trigger(trigger_id)
    return Trigger(**_fields(use, request, changed))


@router.delete(
    "/{trigger_id:uuid}",
    status_code=204,
    operation_id="delete_trigger",
    summary="Delete a trigger",
    responses=documented(UnknownTrigger),
)
async def delete(trigger_id: UUID, use: Use, caller: Writer) -> None:
    """Its deliveries go with it; the runs that it began stay."""
    if not await triggers.delete(use.database, trigger_id, caller.user_id):
        raise unknown_trigger(trigger_id)


@router.post(
    "/{trigger_id:uuid}/rotate-secret",
    operation_id="rotate_trigger_secret",
    summary="Give a trigger another secret",
    responses=documented(UnknownTrigger, TooLarge, UnsupportedMediaType, SecretUnreadable),
)
async def rotate(
    trigger_id: UUID, use: Use, caller: Writer, request: Request, body: NewSecret | None = None
) -> TriggerWithSecret:
    """The one before holds no longer. A trigger without verification gets another address."""
    stored = await existing_trigger(use.database, trigger_id, caller)
    kind = cast("Kind", stored.kind)
    secret = _secret(kind, body.secret if body else None, "/secret")
    token = secrets.token_urlsafe(24) if kind == "none" else open_secrets(use, stored).token
    sealed = _seal(use, stored.id, Secrets(token, secret))
    changed = await triggers.change(use.database, trigger_id, caller.user_id, sealed=sealed)
    if changed is None:
        raise unknown_trigger(trigger_id)
    return TriggerWithSecret(**_fields(use, request, changed), secret=secret)


async def existing_trigger(database: Queryable, id: UUID, caller: Caller) -> StoredTrigger:
    trigger = await triggers.get(database, id, caller.user_id)
    if trigger is None:
        raise unknown_trigger(id)
    return trigger


def unknown_trigger(id: UUID) -> UnknownTrigger:
    return UnknownTrigger(f"There is no trigger {id}, or not at this address.")


def _fields(use: Services, request: Request, stored: StoredTrigger) -> dict[str, Any]:
    fields = {name: getattr(stored, name) for name in StoredTrigger.__slots__ if name in Trigger.model_fields}
    base, token = str(request.base_url).rstrip("/"), open_secrets(use, stored).token
    address = f"{base}{router.prefix}/{stored.id}/ingress/{token}"
    return fields | {"verification": {"kind": stored.kind}, "address": address}


class Secrets(NamedTuple):
    """What is sealed of a trigger: the part of its address that nobody can guess, and what signs deliveries."""

    token: str
    secret: str | None


def _seal(use: Services, id: UUID, plain: Secrets) -> bytes:
    return _sealer(use).seal(orjson.dumps([*plain]), _belongs_to(id))


def open_secrets(use: Services, stored: StoredTrigger) -> Secrets:
    """Raises SecretUnreadable."""
    try:
        return Secrets(*orjson.loads(_sealer(use).open(stored.sealed, _belongs_to(stored.id))))
    except WrongKey as error:
        raise SecretUnreadable(f"The secret of the trigger {stored.id} cannot be read. {error}") from None


def _belongs_to(id: UUID) -> str:
    return f"trigger {id}"


def _sealer(use: Services) -> Sealer:
    return sealer(use.settings)  # pyright: ignore[reportArgumentType] - frozen, so it can be a key
