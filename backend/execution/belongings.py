"""What belongs to a user, as blocks are given it: credentials and files. More there is not outside of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from backend.blocks.outside import Accepted, BlockError, Credentials, File, Outside
from backend.execution.keyring import Keyring
from backend.execution.patience import patiently
from backend.execution.redaction import NO_SECRETS
from backend.settings import Settings
from backend.store import files
from backend.store.connection import Queryable
from backend.store.files import StoredFile
from backend.store.identifiers import new_id

# Bytes of a file that a block is given.
MAX_FILE = 64 * 1024 * 1024


class Belongings(Outside):
    """What one node run has of a user; `redaction` knows the secrets that it was given."""

    def __init__(self, database: Queryable, settings: Settings, user_id: UUID) -> None:
        self._database = database
        self._settings = settings
        self._user_id = user_id
        self._keyring: Keyring | None = None
        self.redaction = NO_SECRETS

    def next_file(self) -> UUID:
        """The id of the file that is kept next."""
        return new_id()

    async def credentials(self, reference: Mapping[str, Any], accepted: Accepted) -> Credentials:
        keyring = self._keyring or Keyring(self._database, self._settings, self._user_id)
        self._keyring, self.redaction = keyring, keyring.redaction
        return await patiently(lambda: keyring.open(reference, accepted))

    async def find_file(self, uri: str) -> None:
        await self._file(uri)

    async def open_file(self, uri: str) -> File:
        file = await self._file(uri)
        if file.size > MAX_FILE:
            raise BlockError(
                f"The file {file.name} is larger than the {MAX_FILE // 1024**2} MiB that a block can take."
            )
        try:
            return File(file.name, file.content_type, await patiently(lambda: self._content(file)))
        except files.Gone as error:
            raise BlockError(str(error)) from None

    async def store_file(self, file: File) -> str:
        limit = self._settings.upload_file_size_limit_mb
        if len(file.content) > limit * 1024**2:
            raise BlockError(f"The file {file.name} is larger than {limit} MiB (UPLOAD_FILE_SIZE_LIMIT_MB).")
        id = self.next_file()
        name, kind, content = files.clean_name(file.name), files.clean_type(file.content_type), file.content
        await patiently(lambda: files.put_once(self._database, self._user_id, id, name, kind, content))
        return f"{files.SCHEME}{id}"

    async def _file(self, uri: str) -> StoredFile:
        id = files.id_in(uri)
        found = await patiently(lambda: files.get(self._database, self._user_id, id)) if id else None
        if found is None:
            raise BlockError(f"There is no file {uri[:80]} of yours: it was deleted, or its time was over.")
        return found

    async def _content(self, file: StoredFile) -> bytes:
        return b"".join([chunk async for chunk in files.read(self._database, file)])
