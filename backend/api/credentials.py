"""The resource /integrations/credentials: secrets that are taken, used by runs, and never given out again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.graphs import Version, existing_graph
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.api.times import in_utc
from backend.errors import InvalidCursor, TooLarge, UnknownCredential, UnknownGraph, UnsupportedMediaType
from backend.execution.credentials import fitting
from backend.execution.runnable import check
from backend.graphs.credentials import host_of
from backend.store import credentials
from backend.store.clock import CLOCK
from backend.store.credentials import StoredCredential
from backend.store.identifiers import new_id
from backend.store.sealing import sealer

router = APIRouter(prefix="/api/v2", tags=["credentials"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_INTEGRATIONS)]
Manager = Annotated[Caller, needs(Permission.MANAGE_INTEGRATIONS)]
Deleter = Annotated[Caller, needs(Permission.DELETE_INTEGRATIONS)]

LONGEST_SECRET = 16_384


def _in_future(time: datetime) -> datetime:
    if time <= CLOCK.now():
        raise ValueError("it is over already")
    return time


def _plain_host(host: str) -> str:
    plain = host_of(host.removeprefix("*."))
    if plain is None or plain != host.removeprefix("*.").lower():
        raise ValueError("it has to be a host such as api.example.com, localhost:8080 or *.example.com")
    return host.lower()


Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.\-]*$", max_length=100)]
Title = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=200)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$", max_length=500)]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=LONGEST_SECRET)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$", max_length=200)]
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[^\x00\r\n]+$", max_length=LONGEST_SECRET)]
Expiry = Annotated[datetime, AfterValidator(in_utc), AfterValidator(_in_future)]


class _NewCredential(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: Provider = Field(description="what it is for; `http` for web requests", examples=["http"])
    title: Title | None = Field(default=None, examples=["Our weather service"])

    def secret(self) -> dict[str, Any]:
        """What is sealed."""
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """What may be told of it beside its provider and title."""
        return {}


class NewServiceKey(_NewCredential):
    """Sent as `Authorization: Bearer`."""

    type: Literal["api_key"]
    api_key: Secret
    expires_at: Expiry | None = None

    def secret(self) -> dict[str, Any]:
        return {"api_key": self.api_key.get_secret_value()}

    def told(self) -> dict[str, Any]:
        return {"expires_at": self.expires_at}


class NewUserPassword(_NewCredential):
    """Sent as `Authorization: Basic`."""

    type: Literal["user_password"]
    username: Name
    password: Secret

    def secret(self) -> dict[str, Any]:
        return {"username": self.username, "password": self.password.get_secret_value()}

    def told(self) -> dict[str, Any]:
        return {"username": self.username}


class NewHostScoped(_NewCredential):
    """Headers that are sent to one host and to no other."""

    type: Literal["host_scoped"]
    host: Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_plain_host)] = Field(
        description="`name`, `name:port`, or `*.name` for all below it", examples=["api.example.com"]
    )
    headers: dict[HeaderName, HeaderValue] = Field(min_length=1, max_length=50, examples=[{"X-Key": "…"}], repr=False)

    def secret(self) -> dict[str, Any]:
        return {"headers": self.headers}

    def told(self) -> dict[str, Any]:
        return {"host": self.host}


class NewOAuth2(_NewCredential):
    """Tokens that were got elsewhere. They are kept as they are, and not renewed."""

    type: Literal["oauth2"]
    access_token: Secret
    refresh_token: Secret | None = None
    access_token_expires_at: Expiry | None = None
    scopes: list[Name] = Field(default=[], max_length=200)
    username: Name | None = None

    def secret(self) -> dict[str, Any]:
        refresh = self.refresh_token.get_secret_value() if self.refresh_token else None
        return {"access_token": self.access_token.get_secret_value(), "refresh_token": refresh, "scopes": self.scopes}

    def told(self) -> dict[str, Any]:
        return {"expires_at": self.access_token_expires_at, "username": self.username}


NewCredential = Annotated[NewServiceKey | NewUserPassword | NewHostScoped | NewOAuth2, Field(discriminator="type")]
EXAMPLE = {
    "type": "host_scoped",
    "provider": "http",
    "title": "Our weather service",
    "host": "api.example.com",
    "headers": {"X-Key": "…"},
}


class Rename(BaseModel):
    title: Title | None = Field(description="what people call it", examples=["The old key"])


class Credential(BaseModel):
    """A credential without its secret, which is never given out."""

    id: UUID
    provider: str
    type: Literal["api_key", "user_password", "host_scoped", "oauth2"]
    title: str | None
    username: str | None
    host: str | None = Field(description="the only host that it is for")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="when a run last opened it, to about a minute")


class SlotOfGraph(BaseModel):
    """A credential that a run of the graph takes, and those of yours that fit."""

    slot: str = Field(description="its name in `credentials_inputs`", examples=["http_host_scoped_credentials"])
    providers: list[str]
    types: list[str]
    host: str | None = Field(description="the host that the nodes send to, if that is always the same")
    required: bool = Field(description="false if the nodes can do without")
    node_ids: list[str]
    credentials: list[Credential] = Field(description="those of yours that fit, newest first")


class CredentialsOfGraph(BaseModel):
    slots: list[SlotOfGraph]


@router.get(
    "/integrations/credentials",
    operation_id="list_credentials",
    summary="List your credentials, newest first",
    responses=documented(InvalidCursor),
)
async def list_(
    use: Use,
    caller: Reader,
    after: After,
    limit: Limit = 20,
    provider: Annotated[Provider | None, Query(description="only those for this provider")] = None,
) -> Page[Credential]:
    rows = await credentials.page(use.database, caller.user_id, limit=limit + 1, before=after, provider=provider)
    shown, next_cursor = cut(rows, limit)
    total = await credentials.count(use.database, caller.user_id, provider)
    return Page(items=_shown(shown), next_cursor=next_cursor, total_count=total)


@router.post(
    "/integrations/credentials",
    status_code=201,
    operation_id="create_credential",
    summary="Store a credential",
    responses=documented(TooLarge, UnsupportedMediaType)
    | {
        201: {
            "links": links("credential_id", "get_credential", "rename_credential", "delete_credential"),
            "description": "it is stored, encrypted",
        }
    },
)
async def create(
    use: Use, caller: Manager, response: Response, body: Annotated[NewCredential, Body(examples=[EXAMPLE])]
) -> Credential:
    """The secret goes in and does not come out again: only runs use it."""
    about = {"username": None, "host": None, "expires_at": None} | body.told()
    id, now = new_id(), CLOCK.now()
    stored = StoredCredential(
        id=id, provider=body.provider, type=body.type, title=body.title, created_at=now, last_used_at=None, **about
    )
    seal = sealer(use.settings)
    sealed = seal.seal(orjson.dumps(body.secret()), credentials.sealed_for(id))
    await credentials.insert(use.database, caller.user_id, stored, sealed)
    response.headers["Location"] = f"{router.prefix}/integrations/credentials/{id}"
    return _shown([stored])[0]


@router.get(
    "/integrations/credentials/{credential_id:uuid}",
    operation_id="get_credential",
    summary="Show a credential, without its secret",
    responses=documented(UnknownCredential),
)
async def show(credential_id: UUID, use: Use, caller: Reader) -> Credential:
    return _existing(credential_id, await credentials.get(use.database, caller.user_id, credential_id))


@router.patch(
    "/integrations/credentials/{credential_id:uuid}",
    operation_id="rename_credential",
    summary="Change the title of a credential",
    responses=documented(UnknownCredential, TooLarge, UnsupportedMediaType),
)
async def rename(credential_id: UUID, use: Use, caller: Manager, body: Rename) -> Credential:
    renamed = await credentials.rename(use.database, caller.user_id, credential_id, body.title)
    return _existing(credential_id, renamed)


@router.delete(
    "/integrations/credentials/{credential_id:uuid}",
    status_code=204,
    operation_id="delete_credential",
    summary="Delete a credential",
    responses=documented(UnknownCredential),
)
async def delete(credential_id: UUID, use: Use, caller: Deleter) -> None:
    """Nodes that ask for it from now on fail."""
    if not await credentials.delete(use.database, caller.user_id, credential_id):
        raise _unknown(credential_id)


@router.get(
    "/library/agents/{graph_id:uuid}/credentials",
    operation_id="list_agent_credentials",
    summary="List which of your credentials fit an agent",
    responses=documented(UnknownGraph),
)
@router.get(
    "/graphs/{graph_id:uuid}/credentials",
    operation_id="list_graph_credentials",
    summary="List which of your credentials fit a graph",
    responses=documented(UnknownGraph),
)
async def of_graph(graph_id: UUID, use: Use, caller: Reader, version: Version = None) -> CredentialsOfGraph:
    """What a start of a run takes as `credentials_inputs`, and what may be given there."""
    stored = await existing_graph(use.database, caller.user_id, graph_id, version)
    found = (await check(use.database, stored)).slots
    fit = await fitting(use.database, caller.user_id, found)
    return CredentialsOfGraph(
        slots=[
            SlotOfGraph(
                slot=slot.key,
                providers=list(slot.kind.providers),
                types=list(slot.kind.types),
                host=slot.kind.host,
                required=slot.required,
                node_ids=[each.node.id for each in slot.uses],
                credentials=_shown(fit[slot.key]),
            )
            for slot in found
        ]
    )


def _existing(id: UUID, stored: StoredCredential | None) -> Credential:
    if stored is None:
        raise _unknown(id)
    return _shown([stored])[0]


def _unknown(id: UUID) -> UnknownCredential:
    return UnknownCredential(f"You have no credential {id}.")


def _shown(rows: Sequence[StoredCredential]) -> list[Credential]:
    return [Credential.model_validate(row, from_attributes=True) for row in rows]
