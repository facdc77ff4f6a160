"""The resource /api-keys, and /me: who the caller is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from backend.api.access import Caller, Permission, needs
from backend.api.body import Body, JsonRoute
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.services import Use
from backend.api.times import in_utc
from backend.errors import (
    InvalidCursor,
    MissingPermissions,
    TooLarge,
    UnknownApiKey,
    Unprocessable,
    UnsupportedMediaType,
)
from backend.store import api_keys, users
from backend.store.api_keys import StoredKey
from backend.store.connection import Queryable

router = APIRouter(prefix="/api/v2", tags=["access"], route_class=JsonRoute)

Manager = Annotated[Caller, needs(Permission.MANAGE_API_KEYS)]

# Seconds that a key which was rotated may go on.
MAX_GRACE = 7 * 24 * 3600


def _in_future(time: datetime) -> datetime:
    if time <= datetime.now(UTC):
        raise ValueError("it has to lie in the future")
    return time


Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]+$", examples=["CI"])]
Given = Annotated[Permission, Field(strict=False)]
Permissions = Annotated[list[Given], Field(min_length=1, max_length=100, examples=[["READ_GRAPH", "RUN_AGENT"]])]
Future = Annotated[AwareDatetime, Field(strict=False), AfterValidator(in_utc), AfterValidator(_in_future)]


class NewApiKey(Body):
    """What a key is for and what may be done with it."""

    name: Name
    permissions: Permissions
    expires_at: Future | None = Field(default=None, description="null: it does not expire")
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="null: as RATE_LIMIT_PER_MINUTE says"
    )
    user: Name | None = Field(
        default=None, description="whose key it is, by name; another than one's own takes the permission ADMIN"
    )


class ApiKeyChange(Body):
    """What is left out stays as it is."""

    name: Name | None = None
    permissions: Permissions | None = None
    expires_at: Future | None = None


class Rotation(Body):
    """How long the old key goes on beside the new one."""

    grace_seconds: int = Field(default=0, ge=0, le=MAX_GRACE, examples=[3600])


class ApiKey(BaseModel):
    """An API key, without the key itself: it is shown once, when it is made."""

    id: UUID
    name: str
    user_id: UUID
    user_name: str
    head: str = Field(description="its first characters", examples=["agpt_Ab3"])
    tail: str = Field(description="its last characters")
    permissions: list[Permission]
    status: Literal["ACTIVE", "EXPIRED", "REVOKED"]
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")
    revoked_at: datetime | None


class CreatedApiKey(BaseModel):
    """A key that was made. `plain_text_key` is never shown again."""

    api_key: ApiKey
    plain_text_key: str


class Me(BaseModel):
    """The caller."""

    id: UUID
    name: str
    permissions: list[Permission] = Field(description="what the caller may do")
    api_key: ApiKey | None = Field(description="the key the caller came with; null where none is needed")


CREATED = {201: {"description": "the key, shown only now"}}


@router.get("/me", operation_id="get_me", summary="Show who I am")
async def me(use: Use, caller: Annotated[Caller, needs(Permission.IDENTITY)]) -> Me:
    key = await api_keys.get(use.database, caller.key_id) if caller.key_id else None
    permissions = sorted(map(Permission, caller.permissions))
    return Me(id=caller.user_id, name=caller.user_name, permissions=permissions, api_key=key and _shown(key))


@router.post(
    "/api-keys",
    status_code=201,
    operation_id="create_api_key",
    summary="Make an API key",
    responses=documented(TooLarge, UnsupportedMediaType)
    | {201: {"links": links("key_id", "get_api_key", at="/api_key/id"), "description": "the key, shown only now"}},
)
async def create(use: Use, caller: Manager, response: Response, body: NewApiKey) -> CreatedApiKey:
    """Nobody can give a key permissions that their own has not."""
    _check_permissions(caller, body.permissions)
    user_id = caller.user_id
    if body.user is not None and body.user != caller.user_name:
        _check_admin(caller)
        user_id = await users.named(use.database, body.user)
    return await _make(use.database, response, user_id, body)


async def _make(database: Queryable, response: Response, user_id: UUID, wanted: NewApiKey) -> CreatedApiKey:
    secret = api_keys.new_key()
    key = await api_keys.insert(
        database,
        secret,
        user_id,
        wanted.name,
        set(wanted.permissions),
        expires_at=wanted.expires_at,
        requests_per_minute=wanted.requests_per_minute,
    )
    response.headers["Location"] = f"{router.prefix}/api-keys/{key.id}"
    return CreatedApiKey(api_key=_shown(key), plain_text_key=secret)


@router.get(
    "/api-keys",
    operation_id="list_api_keys",
    summary="List my API keys, newest first",
    responses=documented(InvalidCursor),
)
async def list_(
    use: Use,
    caller: Manager,
    after: After,
    limit: Limit = 20,
    user_id: Annotated[UUID | None, Query(description="whose; others than oneself take the permission ADMIN")] = None,
) -> Page[ApiKey]:
    if user_id not in (None, caller.user_id):
        _check_admin(caller)
    of = user_id or caller.user_id
    rows, next_cursor = cut(await api_keys.page(use.database, of, limit=limit + 1, before=after), limit)
    total = await api_keys.count(use.database, of)
    return Page(items=[_shown(row) for row in rows], next_cursor=next_cursor, total_count=total)


@router.get(
    "/api-keys/{key_id:uuid}",
    operation_id="get_api_key",
    summary="Show an API key",
    responses=documented(UnknownApiKey),
)
async def show(key_id: UUID, use: Use, caller: Manager) -> ApiKey:
    return _shown(await _existing(use.database, caller, key_id))


@router.patch(
    "/api-keys/{key_id:uuid}",
    operation_id="change_api_key",
    summary="Change an API key",
    responses=documented(UnknownApiKey, TooLarge, UnsupportedMediaType),
)
async def change(key_id: UUID, use: Use, caller: Manager, body: ApiKeyChange) -> ApiKey:
    """It counts from the next request on; streams that are open with the key end, and can be resumed."""
    key = await _existing(use.database, caller, key_id)
    _check_permissions(caller, body.permissions or [])
    expires_at = body.expires_at if "expires_at" in body.model_fields_set else key.expires_at
    permissions = key.permissions if body.permissions is None else set(body.permissions)
    await api_keys.change(use.database, key.id, body.name or key.name, permissions, expires_at)
    return await show(key_id, use, caller)


@router.post(
    "/api-keys/{key_id:uuid}/rotate",
    status_code=201,
    operation_id="rotate_api_key",
    summary="Replace an API key by a new one",
    responses=documented(UnknownApiKey, TooLarge, UnsupportedMediaType) | CREATED,
)
async def rotate(
    key_id: UUID, use: Use, caller: Manager, response: Response, body: Rotation | None = None
) -> CreatedApiKey:
    """The new key is as the old one was, which is revoked, at once or after some time."""
    key = await _existing(use.database, caller, key_id)
    _check_permissions(caller, key.permissions)
    if key.revoked_at:
        raise Unprocessable(f"The API key {key.id} was revoked: make a new one.")
    wanted = NewApiKey.model_construct(
        name=key.name,
        permissions=[Permission(each) for each in key.permissions],
        expires_at=key.expires_at,
        requests_per_minute=key.requests_per_minute,
    )
    async with use.database.acquire() as connection, connection.transaction():
        made = await _make(connection, response, key.user_id, wanted)
        await api_keys.revoke(connection, key.id, timedelta(seconds=body.grace_seconds if body else 0))
    return made


@router.delete(
    "/api-keys/{key_id:uuid}",
    status_code=204,
    operation_id="revoke_api_key",
    summary="Revoke an API key",
    responses=documented(UnknownApiKey),
)
async def revoke(key_id: UUID, use: Use, caller: Manager) -> None:
    """At once and for good; streams that are open with it end. It stays in the list, as revoked."""
    await api_keys.revoke(use.database, (await _existing(use.database, caller, key_id)).id)


async def _existing(database: Queryable, caller: Caller, key_id: UUID) -> StoredKey:
    """A key of the caller, or of anybody if the caller is an admin; or UnknownApiKey."""
    key = await api_keys.get(database, key_id)
    if key is None or (key.user_id != caller.user_id and Permission.ADMIN not in caller.permissions):
        raise UnknownApiKey(f"There is no API key {key_id}.")
    return key


def _check_permissions(caller: Caller, wanted: list[Permission] | list[str]) -> None:
    if beyond := sorted(set(wanted) - caller.permissions):
        raise MissingPermissions(f"This API key cannot give a permission that it lacks: {', '.join(beyond)}.")


def _check_admin(caller: Caller) -> None:
    if Permission.ADMIN not in caller.permissions:
        raise MissingPermissions("Keys of others take the permission ADMIN, which this API key lacks.")


def _shown(key: StoredKey) -> ApiKey:
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    status = "REVOKED" if key.revoked_at else "EXPIRED" if expired else "ACTIVE"
    fields = {name: getattr(key, name) for name in StoredKey.__slots__ if name != "permissions"}
    return ApiKey(status=status, permissions=[Permission(each) for each in key.permissions], **fields)
