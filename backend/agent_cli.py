"""Agents from the command line: `python -m backend.agent_cli run FILE --input Name=value`, and `check FILE`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from backend.blocks import registry
from backend.execution.history import History, NodeRun
from backend.graphs import exchange, validation
from backend.settings import SettingError, Settings
from backend.store.events import ENDS, Event

# Seconds a server may take until it is ready.
START_LIMIT = 60.0
# Characters of a value that fit a line of progress.
SHORT = 60

COLOURS = {"COMPLETED": "green", "FAILED": "red", "TERMINATED": "yellow", "RUNNING": "cyan", "REVIEW": "magenta"}

console = Console(stderr=True)


class CannotRun(Exception):
    """The agent could not be run; the message says why, in lines for a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.agent_cli", description="Run or check an agent file.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run an agent and show its nodes at work")
    run.add_argument("file", type=Path)
    run.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help="may be given several times")
    run.add_argument("--json", action="store_true", help="print the finished run as JSON")
    check = commands.add_parser("check", help="say what keeps an agent from running")
    check.add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    try:
        if given.command == "check":
            return check_agent(given.file)
        return asyncio.run(run_agent(given.file, dict(map(_pair, given.input)), as_json=given.json))
    except (CannotRun, SettingError) as error:
        console.print(str(error), style="red", highlight=False, markup=False)
    except KeyboardInterrupt:
        return 130
    return 1


def check_agent(file: Path) -> int:
    """Print every problem of an agent file; returns 1 if there is any."""
    try:
        graph = exchange.read(_read(file))
    except exchange.GraphFileError as error:
        raise CannotRun("\n".join(f"{fault.pointer or '/'}: {fault.message}" for fault in error.faults)) from error
    problems = validation.problems(graph, registry.catalogue(), registry.known_names())
    for problem in problems:
        console.print(problem.message, style="red", highlight=False, markup=False)
    if not problems:
        console.print(f"{graph.name or file.name}: nothing keeps it from running.", style="green", markup=False)
    return 1 if problems else 0


async def run_agent(file: Path, inputs: dict[str, Any], *, as_json: bool) -> int:
    """Run an agent on the server of these settings, or on one started for it; returns 0 if it COMPLETED."""
    document = _read(file)
    settings = Settings.load()
    address = f"http://{settings.agent_api_host}:{settings.agent_api_port}"
    key = settings.agent_api_key
    headers = {"X-API-Key": key.get_secret_value()} if key else {}
    async with aiohttp.ClientSession(address, headers=headers) as client, _server(client):
        graph = await _post(client, "/api/v2/graphs", document)
        started = await _post(client, f"/api/v2/graphs/{graph['id']}/runs", orjson.dumps({"inputs": inputs}))
        try:
            await _show_progress(client, graph, started["id"])
        except asyncio.CancelledError:
            await client.post(f"/api/v2/runs/{started['id']}/stop")
            raise
        run = await _get(client, f"/api/v2/runs/{started['id']}")
    _show_result(run, as_json=as_json)
    return 0 if run["status"] == "COMPLETED" else 1


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CannotRun(f"--input {text}: expected NAME=VALUE.")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CannotRun(f"cannot read {file}: {error.strerror}.") from error


# The server


@asynccontextmanager
async def _server(client: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """The server that is there, once it is ready; or one of our own, for as long as it is needed."""
    if await _is_ready(client) is not None:
        await _until_ready(client)
        yield
        return
    console.print("No server is running: starting one for this run …", style="dim")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backend", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = asyncio.create_task(_tail(process))
    try:
        await _until_ready(client, process)
        if process.returncode is not None:
            raise CannotRun(f"the server did not start:\n{await output}")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await output


async def _until_ready(client: aiohttp.ClientSession, process: asyncio.subprocess.Process | None = None) -> None:
    """Return when the server is ready, or its process has ended."""
    try:
        async with asyncio.timeout(START_LIMIT):
            while not (await _is_ready(client) or (process and process.returncode is not None)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise CannotRun(f"the server was not ready within {START_LIMIT:.0f} s: `invoke status` shows why.") from None


async def _tail(process: asyncio.subprocess.Process) -> str:
    """Read the server's output to its end, so that it never blocks; returns the last lines."""
    assert process.stdout is not None
    lines: list[bytes] = []
    while line := await process.stdout.readline():
        lines = [*lines[-20:], line]
    return b"".join(lines).decode(errors="replace")


async def _is_ready(client: aiohttp.ClientSession) -> bool | None:
    """Whether the server is ready; None if there is none."""
    try:
        async with client.get("/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return None


async def _get(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        return await _answer(response)


async def _post(client: aiohttp.ClientSession, path: str, body: bytes) -> Any:
    async with client.post(path, data=body, headers={"Content-Type": "application/json"}) as response:
        return await _answer(response)


async def _answer(response: aiohttp.ClientResponse) -> Any:
    answer = await response.json(content_type=None)
    if response.status >= 400:
        found = [each["message"] for key in ("problems", "errors") for each in answer.get(key) or ()]
        raise CannotRun("\n".join([str(answer.get("detail") or answer.get("title")), *found]))
    return answer


# What a person sees


async def _show_progress(client: aiohttp.ClientSession, graph: dict[str, Any], run_id: str) -> None:
    titles = _titles(graph)
    history = History()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        async for event in _events(client, run_id):
            history.apply(event)
            live.update(_table(history, titles), refresh=True)


async def _events(client: aiohttp.ClientSession, run_id: str) -> AsyncIterator[Event]:
    """The events of a run as they come; a stream that breaks off is taken up where it was."""
    last = 0
    while True:
        headers = {"Last-Event-ID": str(last)}
        async with client.get(f"/api/v2/runs/{run_id}/events", headers=headers) as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    data = orjson.loads(line[5:])
                    event = Event(data["number"], data["type"], data["data"])
                    last = event.number
                    yield event
                    if event.type in ENDS:
                        return


def _titles(graph: dict[str, Any]) -> dict[str, str]:
    names = {id: block.name.removesuffix("Block") for id, block in registry.blocks().items()}
    return {
        node["id"]: str(node["metadata"].get("customized_name") or names.get(node["block_id"]) or node["block_id"])
        for node in graph["nodes"]
    }


def _table(history: History, titles: dict[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for node_run in history.node_runs.values():
        colour = COLOURS.get(node_run.status, "")
        title = titles.get(node_run.node_id, node_run.node_id)
        table.add_row(Text(node_run.status.lower(), colour), Text(title, "bold"), Text(_summary(node_run)))
    return table


def _summary(node_run: NodeRun) -> str:
    if node_run.error:
        return node_run.error
    return ", ".join(f"{pin} = {_short(values[-1])}" for pin, values in node_run.outputs.items())


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _show_result(run: dict[str, Any], *, as_json: bool) -> None:
    out = Console()
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(run, option=orjson.OPT_INDENT_2) + b"\n")
        return
    for name, values in run["outputs"].items():
        for value in values:
            out.print(
                Text.assemble((f"{name}: ", "bold"), value if isinstance(value, str) else orjson.dumps(value).decode())
            )
    console.print(Text(run["status"], COLOURS.get(run["status"], "")), Text(run["error"] or ""))


if __name__ == "__main__":
    sys.exit(main())
