"""Seals what must not lie open in the database: AES-256-GCM, with a key that is not in it.

Sealed bytes begin with the id of the key, so that a wrong one is told. What they were sealed for has to be named again
to open them: a secret that is copied into another row stays shut.
"""

from __future__ import annotations

import base64
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from backend.settings import SettingError, Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
ID_BYTES = 4


class WrongKey(Exception):
    """What is sealed was sealed with another key, or for something else."""


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._id = hashlib.sha256(b"id" + key).digest()[:ID_BYTES]

    def seal(self, secret: bytes, for_: str) -> bytes:
        """`for_` names what the secret belongs to, such as its kind and the id of its row."""
        nonce = os.urandom(NONCE_BYTES)
        return self._id + nonce + self._cipher().encrypt(nonce, secret, for_.encode())

    def open(self, sealed: bytes, for_: str) -> bytes:
        """Raises WrongKey."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415

        if sealed[:ID_BYTES] != self._id:
            raise WrongKey("It was encrypted with another ENCRYPTION_KEY: set that one, or store it anew.")
        nonce, text = sealed[ID_BYTES : ID_BYTES + NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        try:
            return self._cipher().decrypt(nonce, text, for_.encode())
        except (InvalidTag, ValueError):
            raise WrongKey("It cannot be decrypted: it was changed, or belongs to something else.") from None

    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - 20 ms that few need

        return AESGCM(self._key)


def sealer(settings: Settings) -> Sealer:
    """By ENCRYPTION_KEY, or else by the key in DATA_DIR, which is made if it is missing. Raises SettingError."""
    if settings.encryption_key is not None:
        return Sealer(_decoded(settings.encryption_key.get_secret_value()))
    if settings.database_url is not None and settings.app_env == "production":
        raise SettingError(
            "ENCRYPTION_KEY is not set: in production, every process on an external database needs the same one."
            " Make one with `openssl rand -base64 32`."
        )
    return Sealer(_kept(settings.data_dir / "encryption.key"))


def _decoded(text: str) -> bytes:
    with suppress(ValueError):
        key = base64.b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
        if len(key) == KEY_BYTES:
            return key
    raise SettingError("ENCRYPTION_KEY has to be 32 bytes in Base64: make one with `openssl rand -base64 32`.")


def _kept(path: Path) -> bytes:
    """The key in a file that only its owner may read; of processes that make it together one wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), NamedTemporaryFile("w", dir=path.parent) as made:
            made.write(base64.b64encode(os.urandom(KEY_BYTES)).decode())
            made.flush()
            os.link(made.name, path)
    return _decoded(path.read_text())
