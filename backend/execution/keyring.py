"""Opens credentials for one node run, and hides from then on what of them it puts out or says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import orjson

from backend.blocks.outside import Accepted, BlockError, Credentials, basic
from backend.execution.credentials import id_in, unfit
from backend.execution.redaction import Redaction
from backend.graphs.credentials import Kind
from backend.settings import SettingError, Settings
from backend.store import credentials
from backend.store.connection import Queryable
from backend.store.credentials import StoredCredential
from backend.store.sealing import WrongKey, sealer


class Keyring:
    """The credentials of one user, for one node run."""

    def __init__(self, database: Queryable, settings: Settings, user_id: UUID) -> None:
        self._database = database
        self._settings = settings
        self._user_id = user_id
        self.redaction = Redaction()

    async def open(self, reference: Mapping[str, Any], accepted: Accepted) -> Credentials:
        """Raises BlockError."""
        id = id_in(reference)
        if id is None:
            raise BlockError("There is no credential on the pin: choose one of yours, as {id, provider, type}.")
        found = await credentials.use(self._database, self._user_id, id)
        if found is None:
            raise BlockError(f"The credential {id} is not there any more: choose another.")
        credential, sealed = found
        if reason := unfit(credential, Kind(*accepted, host=None)):
            raise BlockError(f"The credential {id} cannot be used: it {reason}.")
        secret = self._secret(credential, sealed)
        self.redaction.add(_to_hide(secret))
        return Credentials(credential.provider, credential.type, credential.host, secret)

    def _secret(self, credential: StoredCredential, sealed: bytes) -> dict[str, Any]:
        try:
            opener = sealer(self._settings)
            return orjson.loads(opener.open(sealed, credentials.sealed_for(credential.id)))
        except (WrongKey, SettingError) as error:
            raise BlockError(f"The credential {credential.id} cannot be opened. {error}") from None


def _to_hide(secret: Mapping[str, Any]) -> Iterator[str]:
    for name, value in secret.items():
        if name == "headers":
            for header in value.values():
                yield from _of_header(header)
        elif name != "username" and isinstance(value, str):
            yield value
    if "password" in secret:
        yield basic(secret["username"], secret["password"])


def _of_header(value: str) -> Iterator[str]:
    """Servers tell the token of `Bearer token` without its first word."""
    yield value
    yield from value.split(None, 1)[1:]
