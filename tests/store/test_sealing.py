"""What is sealed is opened by the same key, for the same thing, and by nothing else."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.settings import SettingError, Settings
from backend.store.sealing import Sealer, WrongKey, sealer

ONE, OTHER = Sealer(b"1" * 32), Sealer(b"2" * 32)


def settings(path: Path, **given: str | None) -> Settings:
    return Settings(_env_file=None, data_dir=path, **given)  # pyright: ignore


def test_only_the_key_it_was_sealed_with_opens_it():
    sealed = ONE.seal(b"hush", "row 1")
    assert b"hush" not in sealed
    assert ONE.open(sealed, "row 1") == b"hush"
    with pytest.raises(WrongKey, match="another ENCRYPTION_KEY"):
        OTHER.open(sealed, "row 1")


def test_a_secret_copied_into_another_row_or_changed_stays_shut():
    sealed = ONE.seal(b"hush", "row 1")
    for bytes_, of in ((sealed, "row 2"), (sealed[:-1] + bytes([sealed[-1] ^ 1]), "row 1"), (sealed[:10], "row 1")):
        with pytest.raises(WrongKey, match="cannot be decrypted"):
            ONE.open(bytes_, of)


def test_processes_that_start_together_share_one_key_that_only_its_owner_reads(tmp_path: Path):
    folder = tmp_path / "data"
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: sealer(settings(folder)), range(8)))
    sealed = made[0].seal(b"hush", "row")
    assert {each.open(sealed, "row") for each in made} == {b"hush"}
    assert [path.name for path in folder.iterdir()] == ["encryption.key"]
    assert (folder / "encryption.key").stat().st_mode & 0o777 == 0o600


def test_a_wrong_key_is_told_without_being_shown(tmp_path: Path):
    with pytest.raises(SettingError, match=r"^ENCRYPTION_KEY has to be 32 bytes in Base64") as told:
        sealer(settings(tmp_path, encryption_key="c2VjcmV0"))
    assert "c2VjcmV0" not in str(told.value)


def test_a_key_may_be_given(tmp_path: Path):
    key = base64.b64encode(b"1" * 32).decode()
    assert sealer(settings(tmp_path, encryption_key=key)).open(ONE.seal(b"hush", "row"), "row") == b"hush"


def test_machines_that_share_a_database_in_production_have_to_be_given_their_key(tmp_path: Path):
    with pytest.raises(SettingError, match="ENCRYPTION_KEY is not set"):
        sealer(settings(tmp_path, database_url="postgresql://db", app_env="production"))
