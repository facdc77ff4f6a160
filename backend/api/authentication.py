"""Before any request is looked at: who asks, by their API key, and whether they have asked too often.

On a loopback address in development nobody needs a key; one that is given counts all the same.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.access import ANYBODY, Caller
from backend.api.problem import problem_response
from backend.errors import ApiError, InvalidApiKey, MissingApiKey, RateLimited, Unauthorized
from backend.settings import KEY_PREFIX, Settings, is_loopback
from backend.store import api_keys
from backend.store.api_keys import StoredKey
from backend.store.connection import Queryable
from backend.store.rate_limits import WINDOW, RateLimits, Window

# What anybody may see, with a key or without: health, documentation, what was shared, and the addresses of triggers.
PUBLIC = re.compile(
    r"/|/livez|/readyz|/health|/docs|/openapi\.json|/problems/[^/]*"
    r"|/api/v2/shared/.*|/api/v2/triggers/[^/]+/ingress(/.*)?"
)

# Seconds for which a key is taken to be as it was; a change is told by a notification long before.
REMEMBERED = 30.0
# Keys that are kept in memory.
MOST = 10_000
# Wrong keys an address may try in a minute.
WRONG_KEYS = 60

# The codes with which upstream closes a WebSocket.
WEBSOCKET_CODES: dict[type[ApiError], int] = {MissingApiKey: 4001, InvalidApiKey: 4003}


def login_is_needed(settings: Settings) -> bool:
    """Whether requests need a key: everywhere but in development on this machine alone."""
    hosts = (settings.agent_api_host, settings.websocket_server_host)
    return settings.app_env == "production" or not all(map(is_loopback, hosts))


class Keys:
    """The keys that were used lately, and what is open with each of them."""

    def __init__(self, database: Queryable, settings: Settings) -> None:
        self._database = database
        self._limit = settings.rate_limit_per_minute
        self._limits = RateLimits(database)
        self._known: dict[str, tuple[StoredKey, float]] = {}
        self._listening = False
        self._open: dict[UUID, set[asyncio.Timeout]] = {}

    async def find(self, secret: str, address: str) -> StoredKey:
        """The key, which is good. Raises Unauthorized, RateLimited."""
        key, until = self._known.get(secret, (None, 0.0))
        if key is None or time.monotonic() >= until:
            key = await self._look_up(secret, address)
        if reason := _fault(key):
            raise InvalidApiKey(reason)
        return key

    async def _look_up(self, secret: str, address: str) -> StoredKey:
        key = await api_keys.by_secret(self._database, secret) if _is_possible(secret) else None
        if key is None:
            allowed, window = await self._limits.take(f"wrong keys of {address}", WRONG_KEYS)
            if not allowed:
                raise _limited(window)
            raise InvalidApiKey("There is no such API key.")
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[secret] = key, time.monotonic() + REMEMBERED
        return key

    async def count(self, key: StoredKey) -> Window | None:
        """Count a request with this key. Raises RateLimited."""
        limit = key.requests_per_minute or self._limit
        if not limit:
            return None
        allowed, window = await self._limits.take(f"key {key.id}", limit)
        if not allowed:
            raise _limited(window)
        return window

    def heard(self, _: str, payload: str) -> None:
        """Take a notification: the id of a key that is not as it was; or nothing, which may mean any, as nobody had
        listened for a while."""
        if not payload and not self._listening:
            self._listening = True
            return
        self._known = {secret: known for secret, known in self._known.items() if payload not in ("", str(known[0].id))}
        for id, timeouts in self._open.items():
            if payload in ("", str(id)):
                for timeout in timeouts:
                    timeout.reschedule(0)

    async def check(self, caller: Caller) -> None:
        """Raises InvalidApiKey if the caller's key is not good any more."""
        if reason := await self._reason(caller):
            raise InvalidApiKey(reason)

    async def _reason(self, caller: Caller) -> str | None:
        if caller.key_id is None:
            return None
        key = await api_keys.get(self._database, caller.key_id)
        return _fault(key) if key else "The API key is not there any more."

    @asynccontextmanager
    async def open(self, caller: Caller) -> AsyncGenerator[None]:
        """Around what lives longer than a request: it is ended, in silence, when the caller's key is changed, revoked
        or expires."""
        if caller.key_id is None:
            yield
            return
        left = (caller.expires_at - datetime.now(UTC)).total_seconds() if caller.expires_at else None
        limit = asyncio.timeout(left)
        beside = self._open.setdefault(caller.key_id, set())
        try:
            async with limit:
                beside.add(limit)
                if await self._reason(caller):  # since its request came in
                    limit.reschedule(0)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            beside.discard(limit)
            if not beside:
                self._open.pop(caller.key_id, None)


def _is_possible(secret: str) -> bool:
    return secret.startswith(KEY_PREFIX) and len(secret) <= 200 and secret.isascii()


def _fault(key: StoredKey) -> str | None:
    if key.revoked_at:
        return f"The API key {key.head}… was revoked."
    if key.expires_at and key.expires_at <= datetime.now(UTC):
        return f"The API key {key.head}… has expired."
    return None


def _limited(window: Window) -> RateLimited:
    return RateLimited(
        f"More than {window.limit:,} requests in a minute: the next is answered in {window.seconds} s.",
        headers={"Retry-After": str(window.seconds), **_told(window)},
    )


def _told(window: Window) -> dict[str, str]:
    left = window.left + window.taken
    return {
        "RateLimit-Policy": f'"default";q={window.limit};w={WINDOW}',
        "RateLimit": f'"default";r={left};t={window.seconds}',
    }


class Authenticated:
    """Lets in who may come in, and tells operations who it is: `scope["caller"]`."""

    def __init__(self, app: ASGIApp, keys: Keys, settings: Settings) -> None:
        self._app = app
        self._keys = keys
        self._open = not login_is_needed(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        try:
            scope["caller"], window = await self._admit(scope)
        except ApiError as error:
            return await _refuse(error, scope, receive, send)
        await self._app(scope, receive, _telling(window, send) if window else send)

    async def _admit(self, scope: Scope) -> tuple[Caller, Window | None]:
        if scope["type"] == "http" and PUBLIC.fullmatch(scope["path"]):
            return ANYBODY, None
        secret = _secret(scope)
        if self._open and not (secret or "").startswith(KEY_PREFIX):
            return ANYBODY, None  # whatever else it is, it is meant for another server
        if secret is None:
            raise MissingApiKey("Send an API key, as `X-API-Key: agpt_…` or `Authorization: Bearer agpt_…`.")
        client = cast("tuple[str, int] | None", scope.get("client"))
        key = await self._keys.find(secret, client[0] if client else "")
        caller = Caller(key.user_id, key.user_name, key.id, frozenset(key.permissions), key.expires_at)
        return caller, await self._keys.count(key)


def _secret(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    # A browser cannot give a WebSocket any headers.
    return QueryParams(scope["query_string"]).get("token") if scope["type"] == "websocket" else None


def _telling(window: Window, send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_told(window))
        await send(message)

    return told


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if isinstance(error, Unauthorized):
        error.headers["WWW-Authenticate"] = "Bearer"
    if scope["type"] == "http":
        return await problem_response(error)(scope, receive, send)
    # Only a connection that was accepted can be told why it is closed.
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": WEBSOCKET_CODES.get(type(error), 1008), "reason": error.detail})
