"""Settings: one declaration, four places they come from, and one sentence for what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.settings import SettingError, Settings, take_flags


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without .env, an environment without settings, both put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {key: value for key, value in os.environ.items() if not is_setting(key)})


def is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields


def complaint() -> str:
    with pytest.raises(SettingError) as raised:
        Settings.load()
    return str(raised.value)


def test_a_flag_wins_over_the_environment_this_over_dotenv_and_that_over_the_default():
    assert Settings.load().agent_api_port == 8006
    Path(".env").write_text("AGENT_API_PORT=1\nLOG_LEVEL=debug\n")
    assert Settings.load().agent_api_port == 1
    os.environ["AGENT_API_PORT"] = "2"
    assert Settings.load().agent_api_port == 2
    take_flags("rest", ["--agent-api-port", "3"])
    assert Settings.load().agent_api_port == 3
    assert Settings.load().log_level == "debug"


def test_the_short_flags_mean_the_process_that_is_started():
    take_flags("websocket", ["--port", "9001", "--env", "production"])
    settings = Settings.load()
    assert (settings.websocket_server_port, settings.agent_api_port) == (9001, 8006)
    assert settings.app_env == "production"


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        take_flags("rest", ["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in shown] == []


def test_an_unknown_flag_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        take_flags("rest", ["--nope"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "python -m backend.rest: unrecognized arguments: --nope; --help lists the settings.\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("AGENT_API_PORT", "abc", "valid integer"),
        ("AGENT_API_PORT", "70000", "less than or equal to 65535"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("APP_ENV", "staging", "'development' or 'production'"),
        ("NUM_GRAPH_WORKERS", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(name: str, value: str, part: str):
    os.environ[name] = value
    assert complaint().startswith(f"{name} is {value!r}: ")
    assert part in complaint()


def test_a_password_in_a_wrong_address_is_not_repeated():
    os.environ["DATABASE_URL"] = "mysql://me:secret@host/name"
    assert complaint() == "DATABASE_URL is not an address of a database: it has to begin with postgresql://"


def test_a_dotenv_that_is_not_text_is_told():
    Path(".env").write_bytes(b"A=\xff")
    assert complaint() == ".env is not UTF-8 text (byte 2): save it as UTF-8."


def test_lists_are_separated_by_commas():
    os.environ["TRUSTED_HOSTS"] = "localhost, 10.0.0.5:8080,"
    assert Settings.load().trusted_hosts == ("localhost", "10.0.0.5:8080")
