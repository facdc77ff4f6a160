"""The webhook that a start may bring with it, which is told of this run alone."""

from __future__ import annotations

import os
from base64 import b64decode
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from backend.api.access import Caller, Permission
from backend.api.body import Body
from backend.api.services import Services
from backend.api.webhooks import ENDS, SECRET_BYTES, WebhookEvents, WebhookUrl, check_reachable
from backend.errors import MissingPermissions
from backend.store import webhooks
from backend.store.connection import Queryable
from backend.store.identifiers import new_id
from backend.store.sealing import sealer

PREFIX = "whsec_"


def _secret(text: str) -> str:
    if not 24 <= len(_decoded(text)) <= 64:
        raise ValueError("it has to be 24 to 64 bytes")
    return text


def _decoded(text: str) -> bytes:
    return b64decode(text.removeprefix(PREFIX), validate=True)


Secret = Annotated[
    str,
    AfterValidator(_secret),
    Field(
        max_length=200,
        pattern=r"^whsec_[A-Za-z0-9+/]+={0,2}$",
        description="the deliveries are signed with it: 24 to 64 bytes in Base64 after `whsec_`",
        examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    ),
]


class RunWebhook(Body):
    """Where to tell what happens to the run. Without a `secret` nobody can verify who tells it."""

    url: WebhookUrl
    events: WebhookEvents = Field(default=ENDS)
    secret: Secret | None = None

    def check(self, use: Services, caller: Caller) -> None:
        """Raises MissingPermissions, Unprocessable."""
        if Permission.WRITE_WEBHOOK not in caller.permissions:
            raise MissingPermissions(f"This API key lacks the permission {Permission.WRITE_WEBHOOK}.")
        check_reachable(self.url, use, "/webhook/url")

    async def insert(self, connection: Queryable, use: Services, user_id: UUID, run_id: UUID) -> None:
        """In the transaction that begins the run."""
        id = new_id()
        secret = _decoded(self.secret) if self.secret else os.urandom(SECRET_BYTES)
        sealed = sealer(use.settings).seal(secret, webhooks.sealed_for(id))
        await webhooks.insert_for_run(connection, id, user_id, run_id, self.url, self.events, sealed)
