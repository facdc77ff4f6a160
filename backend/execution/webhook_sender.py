"""One attempt to tell a webhook something: signed, posted where that is allowed, and judged by the answer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from backend.blocks._addresses import Guard, plain
from backend.blocks._http import why
from backend.blocks.block import BlockError
from backend.store.deliveries import Due, Result
from backend.store.sealing import Sealer, WrongKey
from backend.store.webhooks import SWITCHED_OFF, sealed_for

# Seconds before each attempt, counted from the one before: about three days in all.
DELAYS = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
# The part by which a delay may be longer: those that failed together are not to come back together.
JITTER = 0.2
# Seconds that a receiver has to answer, and that it may ask to be left alone for.
TIMEOUT = 10.0
LONGEST_RETRY_AFTER = 24 * 3600.0
# Bytes of an answer that are kept.
EXCERPT = 1024


@dataclass(slots=True)
class _Answer:
    """What is known of an answer so far."""

    status: int | None = None
    excerpt: str | None = None
    retry_after: float = 0.0


class Sender:
    """The connections of one event loop to receivers."""

    def __init__(self, trusted: tuple[str, ...], sealer: Sealer, resolver: AbstractResolver | None = None) -> None:
        self._trusted = tuple(map(str.lower, trusted))
        self._sealer = sealer
        guard = Guard(self._trusted, resolver or aiohttp.ThreadedResolver())
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=guard, use_dns_cache=False, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nobody's zip bomb: an excerpt of what is packed says nothing, but we ask for none.
            auto_decompress=False,
            headers={"User-Agent": "agent-server", "Content-Type": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.close()

    async def attempt(self, due: Due, body: bytes) -> Result:
        if not due.active:
            return Result(False, 0, error=SWITCHED_OFF)
        began, answer, error = time.monotonic(), _Answer(), None
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._post(due, body, answer)
        except TimeoutError:
            error = f"The receiver did not answer within {TIMEOUT:.0f} seconds."
        except (BlockError, WrongKey) as refused:
            error = str(refused)
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            error = f"The receiver could not be reached: {why(failed)}."
        milliseconds = round((time.monotonic() - began) * 1000)
        return _result(answer, error, due.attempts, milliseconds)

    async def _post(self, due: Due, body: bytes, answer: _Answer) -> None:
        url = plain(URL(due.url), self._trusted)
        headers = self._signed(due, body)
        async with self._client.post(url, data=body, headers=headers, allow_redirects=False) as response:
            answer.status = response.status
            answer.retry_after = _retry_after(response.headers)
            excerpt = bytearray()
            async for chunk in response.content.iter_any():
                excerpt += chunk
                answer.excerpt = excerpt[:EXCERPT].decode(errors="replace").replace("\0", "�")
                if len(excerpt) >= EXCERPT:
                    break

    def _signed(self, due: Due, body: bytes) -> dict[str, str]:
        from standardwebhooks import Webhook  # noqa: PLC0415 - 35 ms that few need

        now, name = datetime.now(UTC), sealed_for(due.webhook_id)
        secrets = [self._sealer.open(sealed, name) for sealed in (due.secret, due.previous_secret) if sealed]
        signatures = [Webhook(secret).sign(str(due.id), now, body.decode()) for secret in secrets]
        return {
            "webhook-id": str(due.id),
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _result(answer: _Answer, error: str | None, attempts: int, milliseconds: int) -> Result:
    status = answer.status
    if status is not None and 200 <= status < 300:  # however slowly the rest of the answer comes
        return Result(True, milliseconds, status, answer.excerpt)
    if status is not None:
        error = f"The receiver answered {status}." + (" Redirects are not followed." if 300 <= status < 400 else "")
    gone = status == 410
    again_in = None if gone else _again_in(attempts + 1, answer.retry_after if status in (429, 503) else 0.0)
    return Result(False, milliseconds, status, answer.excerpt, error, again_in, gone)


def _again_in(attempts: int, retry_after: float) -> float | None:
    """The seconds to the next attempt after so many; None if that was the last."""
    if attempts >= len(DELAYS):
        return None
    return max(DELAYS[attempts] * random.uniform(1, 1 + JITTER), retry_after)


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the receiver asks to wait; 0 if it does not, or says it in no way that is known."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
