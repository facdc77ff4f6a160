"""Every setting, declared once: flags > environment > .env > defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
KEY_PREFIX = "agpt_"
KEY_LENGTH = 32
LogLevel = Literal["debug", "info", "warning", "error"]

# The short flags of an entry module: `python -m backend.websocket --port 9001`.
SHORT_FLAGS = {
    "rest": {"host": "agent_api_host", "port": "agent_api_port"},
    "websocket": {"host": "websocket_server_host", "port": "websocket_server_port"},
}


class SettingError(Exception):
    """A setting is wrong. The message is one sentence: which, what was found, what is expected."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _postgres_address(value: object) -> object:
    if isinstance(value, str) and value and not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("it has to begin with postgresql://")
    return value or None


def _none_if_empty(value: object) -> object:
    return value or None


@lru_cache(1000)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on this host."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _long_enough(value: SecretStr | None) -> SecretStr | None:
    key = value.get_secret_value() if value else KEY_PREFIX + "x" * KEY_LENGTH
    if not key.startswith(KEY_PREFIX) or not key.isascii() or not KEY_LENGTH <= len(key) <= 200:
        raise ValueError(f"it has to begin with {KEY_PREFIX} and to have {KEY_LENGTH} to 200 characters")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings of every process. A field `agent_api_port` is AGENT_API_PORT and `--agent-api-port`."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    app_env: Literal["development", "production"] = Field(
        default="development", description="development: readable logs, reload; production: JSON logs, restarts"
    )
    agent_api_host: str = Field(default="127.0.0.1", description="address the REST API listens on")
    agent_api_port: Port = Field(default=8006, description="port of the REST API")
    websocket_server_host: str = Field(default="127.0.0.1", description="address the WebSocket server listens on")
    websocket_server_port: Port = Field(default=8001, description="port of the WebSocket server")
    database_url: Annotated[str | None, BeforeValidator(_postgres_address)] = Field(
        default=None, description="postgresql://… of an external PostgreSQL; unset: the bundled one in DATA_DIR"
    )
    agent_api_key: Annotated[SecretStr | None, AfterValidator(_long_enough), BeforeValidator(_none_if_empty)] = Field(
        default=None, description="agpt_…, the first API key; unset: made at the first start that needs one, and shown"
    )
    encryption_key: Annotated[SecretStr | None, BeforeValidator(_none_if_empty)] = Field(
        default=None, description="32 bytes in Base64 that encrypt secrets; unset: made and kept in DATA_DIR"
    )
    data_dir: Path = Field(default=Path(".data"), description="folder of the bundled PostgreSQL and of run-time files")
    log_dir: Annotated[Path | None, BeforeValidator(_none_if_empty)] = Field(
        default=None, description="folder that gets a log file of each process, a new one every 10 MB; 5 old are kept"
    )
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = Field(
        default="info", description="debug, info, warning or error"
    )
    num_graph_workers: int = Field(default=100, ge=1, le=10_000, description="runs one executor works on at a time")
    trusted_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="comma-separated hosts that blocks may reach although their address is private",
    )
    max_concurrent_runs: int = Field(
        default=0, ge=0, description="runs at work at a time on all executors, not counting sub-agents; 0: any number"
    )
    rate_limit_per_minute: int = Field(
        default=6000, ge=0, description="requests a minute that each API key may send, on all machines; 0: any number"
    )
    backend_cors_allow_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="comma-separated origins (https://app.example) whose pages may use this server"
    )
    upload_file_size_limit_mb: int = Field(default=64, ge=1, le=2048, description="size of a file at most, in MiB")
    run_retention_days: int = Field(default=90, ge=0, description="days an ended run is kept; 0 keeps all")
    run_retention_count: int = Field(
        default=0, ge=0, description="ended runs of each agent that are kept, the newest; 0 keeps all"
    )

    @classmethod
    def load(cls) -> Settings:
        """Read the settings of this process; a wrong one raises SettingError."""
        try:
            return cls()
        except ValidationError as error:
            raise SettingError("; ".join(map(_sentence, error.errors()))) from error
        except UnicodeDecodeError as error:
            raise SettingError(f".env is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
        except OSError as error:
            raise SettingError(f"cannot read {error.filename}: {error.strerror}.") from error


# What is said of those whose values are not to be shown: an address may hold a password.
SECRET = {
    "DATABASE_URL": "is not an address of a database",
    "ENCRYPTION_KEY": "is not a key",
    "AGENT_API_KEY": "is not a key",
}


def _sentence(error: ErrorDetails) -> str:
    name = str(error["loc"][0]).upper()
    reason = error["msg"].removeprefix("Value error, ")
    found = SECRET.get(name) or f"is {error['input']!r}"
    return f"{name} {found}: {reason[:1].lower()}{reason[1:]}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print the whole usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the settings.\n")


def take_flags(process: str, arguments: Sequence[str]) -> None:
    """Put the flags of a command line into the environment, where `Settings` and child processes find them.

    `process` names the entry module ("" the one of all together), whose short flags (`--port`) are accepted beside
    the long ones. `--help` prints every setting and exits; an unknown flag exits with status 2.
    """
    parser = _Parser(
        prog=f"python -m backend.{process}".rstrip("."),
        description="Flags win over environment variables, these over .env, that over the defaults.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    short = {setting: f"--{flag}" for flag, setting in SHORT_FLAGS.get(process, {}).items()} | {"app_env": "--env"}
    for name, field in Settings.model_fields.items():
        flags = [flag for flag in (short.get(name), f"--{name.replace('_', '-')}") if flag]
        about = f"{field.description} [{name.upper()}; default: {_shown(field.default)}]"
        parser.add_argument(*flags, dest=name, metavar="VALUE", help=about.replace("%", "%%"))
    for name, value in vars(parser.parse_args(arguments)).items():
        os.environ[name.upper()] = value


def _shown(default: object) -> str:
    return "none" if default in (None, ()) else str(default)
