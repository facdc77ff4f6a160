"""Who asks, and what they may do: every operation says which permissions it needs, and is given its caller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from fastapi import Security
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from backend.errors import MissingPermissions
from backend.store.users import DEFAULT_USER


class Permission(StrEnum):
    """What a key may be allowed to do. Those of upstream have their names."""

    IDENTITY = "IDENTITY"
    READ_BLOCK = "READ_BLOCK"
    EXECUTE_BLOCK = "EXECUTE_BLOCK"
    READ_GRAPH = "READ_GRAPH"
    WRITE_GRAPH = "WRITE_GRAPH"
    READ_LIBRARY = "READ_LIBRARY"
    WRITE_LIBRARY = "WRITE_LIBRARY"
    RUN_AGENT = "RUN_AGENT"
    READ_RUN = "READ_RUN"
    WRITE_RUN = "WRITE_RUN"
    SHARE_RUN = "SHARE_RUN"
    READ_RUN_REVIEW = "READ_RUN_REVIEW"
    WRITE_RUN_REVIEW = "WRITE_RUN_REVIEW"
    READ_SCHEDULE = "READ_SCHEDULE"
    WRITE_SCHEDULE = "WRITE_SCHEDULE"
    READ_TRIGGER = "READ_TRIGGER"
    WRITE_TRIGGER = "WRITE_TRIGGER"
    READ_WEBHOOK = "READ_WEBHOOK"
    WRITE_WEBHOOK = "WRITE_WEBHOOK"
    READ_FILES = "READ_FILES"
    WRITE_FILES = "WRITE_FILES"
    READ_INTEGRATIONS = "READ_INTEGRATIONS"
    MANAGE_INTEGRATIONS = "MANAGE_INTEGRATIONS"
    DELETE_INTEGRATIONS = "DELETE_INTEGRATIONS"
    MANAGE_API_KEYS = "MANAGE_API_KEYS"
    ADMIN = "ADMIN"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` is the key they came with, good until `expires_at`; without login there is none."""

    user_id: UUID
    user_name: str
    key_id: UUID | None
    permissions: frozenset[str]
    expires_at: datetime | None = None


# Who asks without a key, where no login is needed.
ANYBODY = Caller(DEFAULT_USER, "default", None, frozenset(Permission))


class _Access(SecurityBase):
    """Gives an operation its caller, whom authentication.py has found out, if they have the permissions it needs."""

    scheme_name = "ApiKey"
    model = APIKey.model_validate({"in": APIKeyIn.header, "name": "X-API-Key"})

    async def __call__(self, connection: HTTPConnection, needed: SecurityScopes) -> Caller:
        caller: Caller = connection.scope["caller"]
        if missing := [each for each in needed.scopes if each not in caller.permissions]:
            raise MissingPermissions(f"This API key lacks the permission {', '.join(missing)}.")
        return caller


_access = _Access()


def needs(*permissions: Permission) -> Any:
    """The dependency of an operation on a caller who has all of these permissions:
    `caller: Annotated[Caller, needs(Permission.READ_RUN)]`."""
    return Security(_access, scopes=list(permissions))
