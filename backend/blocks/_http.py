"""Requests to other servers that cannot be turned against the network they are sent from.

The address that is checked is the address that is connected to: literal addresses are checked and rewritten in their
plain form, names are checked by the resolver whose answer is connected to. Redirects are followed here, hop by hop.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver
from yarl import URL

from backend.blocks._addresses import Guard, plain
from backend.blocks.block import BlockError, Context
from backend.blocks.json_values import as_text, json_text
from backend.blocks.outside import Credentials, File, basic
from backend.blocks.resources import kept
from backend.graphs.credentials import covers

TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=10)  # seconds
MAX_ANSWER = 32 * 1024 * 1024  # bytes, unpacked
MAX_REDIRECTS = 10
CHUNK = 64 * 1024

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_WITHOUT_EFFECT = frozenset(("GET", "HEAD", "OPTIONS"))
# What may go along to another server; anything else could be a key to the first one.
_HARMLESS = frozenset(("accept", "accept-language", "content-language", "content-type", "user-agent"))
# What the client says itself: a second opinion confuses the servers on the way.
_RESERVED = frozenset(("connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"))

# Codecs of Python that no server means: some take very long, some make half characters.
_NO_CHARSETS = frozenset(("idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined", "utf-7"))

# Makes the content of an answer of its bytes.
Reading = Callable[[aiohttp.ClientResponse, bytes], Any]


@dataclass(frozen=True, slots=True)
class Body:
    """What to send: a dictionary, or nothing."""

    value: dict[str, Any] | None
    as_json: bool

    def options(self) -> dict[str, Any]:
        if self.value is None:
            return {}
        if self.as_json:
            return {"data": json_text(self.value).encode(), "headers": {"Content-Type": "application/json"}}
        return {"data": {name: as_text(value) for name, value in self.value.items()}}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content: Any


async def download(url: str, context: Context) -> File:
    """The file at an address. Raises BlockError."""
    answer = await send("GET", url, {}, Body(None, True), context, read=_as_file)
    if answer.status != 200:
        raise BlockError(f"{_parsed(url).host} does not give the file: it answers with status {answer.status}.")
    return answer.content


def _as_file(response: aiohttp.ClientResponse, content: bytes) -> File:
    named = response.content_disposition.filename if response.content_disposition else None
    return File(named or response.url.name or "file", response.content_type, content)


async def send(
    method: str, url: str, headers: dict[str, str], body: Body, context: Context, read: Reading | None = None
) -> Answer:
    """Send a request and follow redirects. Raises BlockError, whose sentence tells no header and no path."""
    target = _parsed(url)
    headers = _checked(headers)
    if method not in _WITHOUT_EFFECT and "idempotency-key" not in map(str.lower, headers):
        headers["Idempotency-Key"] = context.token
    session = kept(("http", context.trusted_hosts), lambda: Session(context.trusted_hosts))
    try:
        return await session.send(method, target, headers, body, read)
    except TimeoutError:
        raise BlockError(f"{target.host} took too long to answer.") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BlockError(f"{target.host} could not be reached: {why(error)}.") from None


def with_credentials(url: str, headers: dict[str, str], held: Credentials) -> dict[str, str]:
    """The headers with those of a credential in place of others of the same name. Raises BlockError if it is for
    another host."""
    target = _parsed(url)
    host = f"{_bracketed(target.raw_host or '')}:{target.port}"
    if held.host and not covers(held.host, host):
        raise BlockError(f"The credential is for the host {held.host}, and is not sent to {target.host}.")
    own = _authentication(held)
    return {**_without(headers, own), **own}


def _authentication(held: Credentials) -> dict[str, str]:
    match held.type:
        case "host_scoped":
            return dict(held.secret["headers"])
        case "user_password":
            return {"Authorization": f"Basic {basic(held.secret['username'], held.secret['password'])}"}
        case _:
            return {"Authorization": f"Bearer {held.secret['api_key']}"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parsed(url: str) -> URL:
    scheme, separator, _ = url.strip().partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        raise BlockError(f"A URL begins with http:// or https://, not with {scheme[:20]}://.")
    try:
        parsed = URL(url.strip() if separator else f"https://{url.strip()}")
    except ValueError:
        raise BlockError("The URL cannot be read: give one such as https://example.com/path.") from None
    if not parsed.host:
        raise BlockError("The URL names no host: give one such as https://example.com/path.")
    return parsed


def _target(url: URL, location: str) -> URL:
    try:
        return _parsed(str(url.join(URL(location))))
    except ValueError:
        raise BlockError(f"{url.host} redirects to something that is no URL.") from None


def _checked(headers: dict[str, str]) -> dict[str, str]:
    stripped = {name.strip(): value.strip() for name, value in headers.items()}
    for name, value in stripped.items():
        if not name.isascii() or not name or any(character in name + value for character in "\r\n\0") or ":" in name:
            raise BlockError(f"The header {name[:40]!r} cannot be sent: it holds a line end or is no header name.")
        if name.lower() in _RESERVED:
            raise BlockError(f"The header {name} is set by the client itself: remove it.")
    return stripped


def why(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno:
        named = isinstance(cause, socket.gaierror)  # whose numbers are not those of the system
        return str(cause.strerror) if named else os.strerror(cause.errno)
    return "the connection was closed" if isinstance(cause, aiohttp.ServerDisconnectedError) else type(cause).__name__


class Session:
    """The connections of one event loop for one set of trusted hosts."""

    def __init__(self, trusted: tuple[str, ...], resolver: AbstractResolver | None = None) -> None:
        self._trusted = trusted = tuple(map(str.lower, trusted))
        guard = Guard(trusted, resolver or aiohttp.ThreadedResolver())
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=guard, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),  # the cookies of one run are not for the next
            timeout=TIMEOUT,
            headers={"User-Agent": "agent-server"},
        )

    async def close(self) -> None:
        await self._client.close()

    async def send(
        self, method: str, url: URL, headers: dict[str, str], body: Body, read: Reading | None = None
    ) -> Answer:
        async with asyncio.timeout(TIMEOUT.total):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._hop(method, url, headers, body, read or _content)
                if isinstance(answer, Answer):
                    return answer
                status, target = answer
                if status == 303 or (status in (301, 302) and method == "POST"):
                    method, body = "HEAD" if method == "HEAD" else "GET", Body(None, True)
                if target.origin() != url.origin():
                    headers = {name: value for name, value in headers.items() if name.lower() in _HARMLESS}
                url = target
        raise BlockError(f"{url.host} redirects more than {MAX_REDIRECTS} times.")

    async def _hop(
        self, method: str, url: URL, headers: dict[str, str], body: Body, read: Reading
    ) -> Answer | tuple[int, URL]:
        options = body.options()
        options["headers"] = {**_without(options.get("headers", {}), headers), **headers}
        url = plain(url, self._trusted)
        async with self._client.request(method, url, allow_redirects=False, **options) as response:
            location = response.headers.get("Location") if response.status in _REDIRECTS else None
            if location:
                return response.status, _target(url, location)
            return Answer(response.status, read(response, await _read(response)))


def _without(defaults: dict[str, str], headers: dict[str, str]) -> dict[str, str]:
    given = {name.lower() for name in headers}
    return {name: value for name, value in defaults.items() if name.lower() not in given}


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        content += chunk
        if len(content) > MAX_ANSWER:
            raise BlockError(f"The answer of {response.url.host} has more than {MAX_ANSWER:,} bytes.")
    return bytes(content)


def _content(response: aiohttp.ClientResponse, content: bytes) -> Any:
    kind = response.content_type
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return orjson.loads(content) if content else None
        except ValueError:
            pass  # not what it says it is, but perhaps readable
    try:
        charset = response.charset or "utf-8"
        text = content.decode("utf-8" if codecs.lookup(charset).name in _NO_CHARSETS else charset)
    except (UnicodeError, LookupError):
        text = "\0"
    if "\0" in text:
        raise BlockError(f"The answer of {response.url.host} is not text but {kind}: files cannot be received yet.")
    return text
