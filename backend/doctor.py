"""Says what is wrong with this machine before it hurts: `python -m backend.doctor [--json]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import socket
import sys
import tempfile
import time
import zoneinfo
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import asyncpg

from backend.process.ports import owner_of
from backend.settings import SettingError, Settings
from backend.store import bundled

LOCK = Path(__file__).parents[1] / "requirements.lock"
# Bytes. Below the first it will not run for long, below the second it is tight.
DISK = (200_000_000, 2_000_000_000)
MEMORY = (200_000_000, 600_000_000)
# Watching a project of this size takes some hundred; an editor beside us takes many.
WATCHES = 8192
# Descriptors: each client that follows a run holds one.
DESCRIPTORS = 1024
OLDEST_POSTGRESQL = 14


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` is there unless the level is ok."""

    level: Literal["ok", "warn", "fail"]
    about: str
    found: str
    remedy: str = ""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.doctor", description="Check this machine.")
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args(arguments).json
    findings = examine()
    lines = [json.dumps([asdict(finding) for finding in findings], indent=2)] if as_json else map(_line, findings)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _line(finding: Finding) -> str:
    remedy = f"\n{'':18}→ {finding.remedy}" if finding.remedy else ""
    return f"{finding.level:5} {finding.about:11} {finding.found}{remedy}"


def examine() -> list[Finding]:
    """Run every check. Without valid settings there is but one finding."""
    try:
        settings = Settings.load()
    except SettingError as error:
        return [Finding("fail", "settings", str(error), "correct it in the environment or in .env")]
    return [check(settings) for check in CHECKS]


def check_packages(_: Settings) -> Finding:
    pins: list[tuple[str, str, str]] = re.findall(r"^([\w.-]+)==(\S+)( ;)?", LOCK.read_text(), re.MULTILINE)
    differing = [name for name, version, only_elsewhere in pins if _differs(name, version, bool(only_elsewhere))]
    if differing:
        found = f"{len(differing)} differ from {LOCK.name}: {', '.join(differing[:5])}"
        return Finding("fail", "packages", found, "delete .venv and run `python3 tasks.py dev`")
    return Finding("ok", "packages", f"as {LOCK.name} lists them, for {sys.executable}")


def _differs(package: str, version: str, may_be_absent: bool) -> bool:
    try:
        return metadata.version(package) != version
    except metadata.PackageNotFoundError:
        return not may_be_absent


def check_ports(settings: Settings) -> Finding:
    wanted = {"AGENT_API": settings.agent_api_host, "WEBSOCKET_SERVER": settings.websocket_server_host}
    ports = {"AGENT_API": settings.agent_api_port, "WEBSOCKET_SERVER": settings.websocket_server_port}
    for name, host in wanted.items():
        reason = _why_not_bound(host, ports[name])
        if reason:
            remedy = f"stop what is there, or set {name}_PORT or {name}_HOST"
            return Finding("fail", "ports", f"{host}:{ports[name]} {reason}", remedy)
    return Finding("ok", "ports", f"{' and '.join(map(str, ports.values()))} are free, or ours")


def _why_not_bound(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        owner = owner_of(port)
        return "" if "agent-server" in owner or "-m backend" in owner else f"cannot be had ({error.strerror}){owner}"
    return ""


def check_data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("fail", "data folder", f"{folder}: {error.strerror}", "make it writable, or set DATA_DIR")
    return _by_amount("data folder", free, DISK, f"free in {folder}", "make room, or set DATA_DIR")


def _by_amount(about: str, amount: int, limits: tuple[int, int], where: str, remedy: str) -> Finding:
    found = f"{amount / 1e9:.1f} GB {where}"
    if amount >= limits[1]:
        return Finding("ok", about, found)
    return Finding("fail" if amount < limits[0] else "warn", about, found, remedy)


def check_database(settings: Settings) -> Finding:
    return _check_external(settings.database_url) if settings.database_url else _check_bundled(settings.data_dir)


def _check_external(address: str) -> Finding:
    try:
        version = asyncio.run(_version(address))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        return Finding("fail", "database", f"DATABASE_URL: {reason}", "start it, correct DATABASE_URL, or unset it")
    if version < OLDEST_POSTGRESQL:
        found = f"DATABASE_URL is PostgreSQL {version}"
        return Finding("fail", "database", found, f"use {OLDEST_POSTGRESQL} or newer")
    return Finding("ok", "database", f"DATABASE_URL answers, PostgreSQL {version}")


async def _version(address: str) -> int:
    connection = await asyncpg.connect(address, timeout=5)
    try:
        return connection.get_server_version().major
    finally:
        await connection.close()


def _check_bundled(data_dir: Path) -> Finding:
    """Start one for trial, beside the real one, so in a place with the same difficulties."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(dir=data_dir, prefix="doctor-") as folder:
            Path(folder).chmod(0o755)
            server = bundled.Bundled(Path(folder), durable=False)
            try:
                server.start()
                user = (Path(folder) / "postgres").owner()
            finally:
                server.stop()
    except (OSError, KeyError, bundled.DatabaseError) as error:
        return Finding("fail", "database", str(error), "mend that, or set DATABASE_URL to a PostgreSQL of your own")
    return Finding(
        "ok", "database", f"a new one started and stopped in {time.monotonic() - began:.1f} s, run by {user}"
    )


def check_watches(_: Settings) -> Finding:
    limit = _number_in("/proc/sys/fs/inotify/max_user_watches")
    if limit is not None and limit < WATCHES:
        remedy = "`sysctl fs.inotify.max_user_watches=524288` as root, or some saved files are not noticed"
        return Finding("warn", "reload", f"only {limit} files can be watched", remedy)
    return Finding("ok", "reload", f"{limit or 'enough'} files can be watched")


def check_descriptors(_: Settings) -> Finding:
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < DESCRIPTORS:
        return Finding("warn", "open files", f"at most {limit} in a process", f"`ulimit -n {DESCRIPTORS * 8}`")
    return Finding("ok", "open files", f"{limit} in a process")


def check_clock(_: Settings) -> Finding:
    written = LOCK.stat().st_mtime
    if time.time() < written - 86_400:
        return Finding("fail", "clock", f"it is {time.ctime()}, before this code was written", "set the clock")
    try:
        zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        return Finding("fail", "clock", "there are no time zones", "install the package tzdata")
    return Finding("ok", "clock", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, time zones are there")


def check_memory(_: Settings) -> Finding:
    """What is available, or what this container may still take if that is less."""
    pages = os.sysconf("SC_AVPHYS_PAGES") if sys.platform != "darwin" else os.sysconf("SC_PHYS_PAGES")
    available = pages * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):
        in_kilobytes = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        available = int(in_kilobytes[1]) * 1024 if in_kilobytes else available
    limit, used = _number_in("/sys/fs/cgroup/memory.max"), _number_in("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        available = min(available, limit - used)
    return _by_amount("memory", available, MEMORY, "available", "end other programs, or allow the container more")


def _number_in(path: str) -> int | None:
    with suppress(OSError, ValueError):
        return int(Path(path).read_text())
    return None


CHECKS: list[Callable[[Settings], Finding]] = [
    check_packages,
    check_data_folder,
    check_database,
    check_ports,
    check_memory,
    check_descriptors,
    check_watches,
    check_clock,
]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
