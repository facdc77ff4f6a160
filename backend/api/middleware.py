"""Around every request: which pages may speak to us, a request id, headers that keep browsers safe, a count for
/metrics, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.authentication import Authenticated
from backend.api.metrics import Metrics
from backend.api.problem import failure, problem_response
from backend.api.services import Services
from backend.errors import ApiError, ForeignOrigin, NotAcceptable, TooSlow, WrongHost
from backend.graphs.faults import printable
from backend.settings import is_loopback

# Answers are data: no browser is to show them as a page, in a page of others, or out of a cache.
SAFE = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
# What pages of other origins may read of an answer's headers.
EXPOSED = ["X-Request-Id", "ETag", "Location", "RateLimit", "RateLimit-Policy", "Retry-After"]

# Bytes; below, it costs more than it saves. Levels above 4 take twice the time for a few percent.
COMPRESSED_FROM = 2_000
COMPRESSION = 4
NO_GZIP = re.compile(r"\bgzip\s*;\s*q=0(\.0*)?\s*(,|$)", re.IGNORECASE)

# Seconds before a body has to come, and the bytes a second at which it then has to.
BODY_STARTS_WITHIN = 30.0
SLOWEST = 1_000

# Of an address: who knows it needs no key.
SECRET_PART = re.compile(r"(?<=/ingress/).+|(?<=/shared/).+")

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+;=%-]+)(:\d*)?")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

log = structlog.get_logger()


def request_id() -> str | None:
    """That of the request at work."""
    return structlog.contextvars.get_contextvars().get("request_id")


def surround(app: FastAPI, services: Services, *, host: str) -> None:
    """Put around an app what every request goes through, from the inside out. `host` is where the app is served."""
    origins = services.settings.backend_cors_allow_origins
    app.add_middleware(Mannered)
    app.add_middleware(Authenticated, keys=services.keys, settings=services.settings)
    app.add_middleware(Compressed, minimum_size=COMPRESSED_FROM, compresslevel=COMPRESSION)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], expose_headers=EXPOSED
        )
    app.add_middleware(LocalGuard, host=host, origins=origins)
    app.add_middleware(Observed, metrics=services.metrics)


class Compressed(GZipMiddleware):
    """Starlette's, for whom it is for: that takes `gzip;q=0` for a yes, and has work with everybody else."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = Headers(scope=scope).get("accept-encoding", "") if scope["type"] == "http" else ""
        wanted = "gzip" in accepted.lower() and not NO_GZIP.search(accepted)
        await (super().__call__ if wanted else self.app)(scope, receive, send)


class Mannered:
    """Holds clients to what HTTP lets a server expect: to accept what there is, and to send what they announce."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        offered, accepted = _offered(scope["path"]), ",".join(headers.getlist("accept") or ["*/*"])
        if offered and not accepts(accepted, offered):
            error = NotAcceptable(f"Here is {offered}, and Accept is {printable(accepted)[:200]}.")
            return await problem_response(error)(scope, receive, send)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        await self._app(scope, _in_time(receive) if has_body else receive, send)


def _offered(path: str) -> str | None:
    """The media type of the answers at an address; None for any."""
    if not path.startswith("/api/") or path.endswith("/download"):
        return None
    return "text/event-stream" if path.endswith("/events") else "application/json"


@lru_cache(1000)
def accepts(header: str, offered: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) lets a media type pass: the most specific range that fits decides."""
    ranges = {offered: 3, f"{offered.split('/')[0]}/*": 2, "*/*": 1}
    best, allowed = 0, False
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if ranges.get(name, 0) > best:
            best = ranges[name]
            allowed = not any(re.fullmatch(r"q=0(\.0*)?", each) for each in parameters)
    return allowed


def _in_time(receive: Receive) -> Receive:
    """`receive` for a body, which raises TooSlow if that comes slower than it may."""
    began, size, whole = time.monotonic(), 0, False

    async def received() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(began + BODY_STARTS_WITHIN + size / SLOWEST - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise TooSlow(f"{size:,} bytes of the body came in {time.monotonic() - began:.0f} s.") from None
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message

    return received


class LocalGuard:
    """Keeps web pages of other sites, open in the same browser, away from a server that has no login.

    A request names one host; on a loopback address a loopback one (against DNS rebinding). Wherever the server
    listens, a request a page makes (one with `Origin`) has to come from a page of this machine, of this server, or of
    `origins`.
    """

    def __init__(self, app: ASGIApp, host: str, origins: Collection[str] = ()) -> None:
        self._app = app
        self._host = host.lower()
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await problem_response(error)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": error.detail})

    def _refusal(self, headers: Headers) -> ApiError | None:
        host, origin = ", ".join(headers.getlist("host")), headers.get("origin")
        if host and not HOST.fullmatch(host):
            return WrongHost(f"The Host header is {host[:200]!r}: it has to name one host, such as localhost:8006.")
        if is_loopback(self._host) and not self._is_ours(_name(f"//{host}")):
            return WrongHost(f"This server listens on {self._host} only: it is not {host!r}. Use its own address.")
        if origin is None:
            foreign = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        else:
            foreign = not self._is_ours(_name(origin)) and _netloc(origin) != host.lower()
        if foreign and (origin or "").lower() not in self._origins:
            return ForeignOrigin("Pages of other sites may not use this server, but for BACKEND_CORS_ALLOW_ORIGINS.")
        return None

    def _is_ours(self, name: str) -> bool:
        return name == self._host or is_loopback(name)


def _netloc(address: str) -> str:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


@lru_cache(1000)
def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


class Observed:
    """Gives each request an id (the client's, or a new one), counts it, and answers when it failed."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        answer = _Answer(send, given if REQUEST_ID.fullmatch(given) else uuid4().hex)
        started = time.perf_counter()
        with structlog.contextvars.bound_contextvars(request_id=answer.request_id):
            await self._answer(scope, receive, answer)
            seconds = time.perf_counter() - started
            self._metrics.count(scope, answer.status, seconds)
            path = SECRET_PART.sub("…", scope["path"])
            log.debug("request", method=scope["method"], path=path, status=answer.status, seconds=seconds)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("the client went away")
        except Exception as error:
            response = problem_response(failure(error))
            if answer.status:
                raise  # Too late for another answer: the server cuts the connection.
            await response(scope, receive, answer.send)


class _Answer:
    """Sends the answer of one request, and remembers its status (0: not yet begun)."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = [*message.get("headers", ())]
            missing = SAFE.keys() - {name for name, _ in given}
            given += [(b"x-request-id", self.request_id.encode()), *((name, SAFE[name]) for name in missing)]
            message["headers"] = given
        await self._send(message)
