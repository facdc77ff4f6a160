"""Takes secrets out of whatever a node run puts out or says, in every form in which they are likely to come back."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from traceback import format_exception
from typing import Any
from urllib.parse import quote, quote_plus

import orjson
import structlog

from backend.blocks.json_values import as_text, is_dict, is_list

REDACTED = "‹redacted›"
# Characters of a secret: what is shorter is in every other text.
SHORTEST = 4

log = structlog.get_logger()


class Redaction:
    """Knows the secrets of one node run."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._forms)

    def add(self, secrets: Iterable[str]) -> None:
        self._forms |= {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST}
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        return self._pattern.sub(REDACTED, text) if self._pattern else text

    def value(self, value: Any) -> Any:
        """A value of JSON without the secrets; what is none is returned as it is."""
        if self._pattern is None:
            return value
        try:
            raw = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
        except TypeError:
            return value
        return self._walk(orjson.loads(raw)) if self._pattern.search(raw.decode()) else value

    def _walk(self, value: Any) -> Any:
        if is_dict(value):
            return {self.text(key): self._walk(item) for key, item in value.items()}
        if is_list(value):
            return [self._walk(item) for item in value]
        if isinstance(value, str):
            return self.text(value)
        return REDACTED if value is not None and as_text(value) in self._forms else value


NO_SECRETS = Redaction()


def log_raised(error: BaseException, redaction: Redaction, **facts: str) -> None:
    """Log what a block raised that is no BlockError."""
    if redaction:
        log.warning("block raised", **facts, traceback=redaction.text("".join(format_exception(error))))
    else:
        log.warning("block raised", **facts, exc_info=error)


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, html.escape(secret), repr(secret)[1:-1])
    for escaped in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
        yield escaped
        yield re.sub("%..", lambda code: code[0].lower(), escaped)
    inner = orjson.dumps(secret).decode()[1:-1]
    yield from (inner, orjson.dumps(inner).decode()[1:-1], json.dumps(secret)[1:-1])
    yield from _base64(secret.encode())


def _base64(secret: bytes) -> Iterator[str]:
    """The Base64 of the secret by itself, and what stays the same of it wherever in other text it begins."""
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + secret).decode().rstrip("=")
        spilled = (len(secret) + offset) % 3 != 0  # the last character has bits of what follows
        inside = whole[(0, 2, 3)[offset] : len(whole) - spilled]
        for form in (inside, *([whole] if offset == 0 else [])):
            if len(form) >= 2 * SHORTEST:
                yield from (form, form.replace("+", "-").replace("/", "_"))
