"""Whether a delivery comes from who has the secret of a trigger, and whether it came before."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal, NamedTuple

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from backend.errors import InvalidSignature
from backend.store.triggers import REMEMBERED

Kind = Literal["standard_webhooks", "github", "token", "none"]

# How long an equal body is taken for the same delivery where the sender gives no id.
SAME_BODY = timedelta(minutes=5)
# Parts of the names of headers whose values nobody is to see.
SECRET = ("auth", "cookie", "token", "secret", "password", "key")
MAX_HEADERS, MAX_VALUE = 60, 1_000


class Key(NamedTuple):
    """By which a delivery is known when it comes again, for so long."""

    hash: str
    within: timedelta


def new_secret(kind: Kind) -> str | None:
    if kind == "none":
        return None
    random = base64.b64encode(os.urandom(24)).decode()
    return f"whsec_{random}" if kind == "standard_webhooks" else random.replace("+", "-").replace("/", "_")


def is_secret(kind: Kind, secret: str) -> bool:
    """Whether it can be one of this kind."""
    if kind != "standard_webhooks":
        return kind != "none"
    try:
        return bool(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        return False


def verify(kind: Kind, secret: str | None, headers: Mapping[str, str], body: bytes) -> None:
    """Raises InvalidSignature."""
    match kind:
        case "standard_webhooks":
            _verify_standard(secret or "", headers, body)
        case "github":
            _verify_github(secret or "", headers, body)
        case "token":
            _verify_token(secret or "", headers)
        case "none":
            pass


def _verify_standard(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        raise InvalidSignature(f"The webhook-id, -timestamp and -signature do not fit: {error}.") from None
    except ValueError:
        raise InvalidSignature("The webhook-signature cannot be read: it is `v1,` and Base64.") from None


def _verify_github(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not equal(expected, headers.get("x-hub-signature-256", "")):
        raise InvalidSignature("X-Hub-Signature-256 is missing, or made with another secret.")


def _verify_token(secret: str, headers: Mapping[str, str]) -> None:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = headers.get("x-trigger-token") or (bearer.strip() if scheme.lower() == "bearer" else "")
    if not equal(secret, given):
        raise InvalidSignature("X-Trigger-Token (or Authorization: Bearer) is missing, or has another token.")


def equal(secret: str, given: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(secret.encode(), given.encode())


def key_of(kind: Kind, headers: Mapping[str, str], body: bytes) -> Key:
    names = ("x-github-delivery",) if kind == "github" else ("webhook-id", "idempotency-key")
    for name in names:
        if id := headers.get(name):
            return Key(hashlib.sha256(f"{name} {id}".encode()).hexdigest(), REMEMBERED)
    return Key(hashlib.sha256(b"body " + body).hexdigest(), SAME_BODY)


def without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    shown = list(headers.items())[:MAX_HEADERS]
    return {name[:100]: "…" if _is_secret(name) else value[:MAX_VALUE] for name, value in shown}


def _is_secret(name: str) -> bool:
    return name != "idempotency-key" and any(part in name for part in SECRET)
