"""Milliseconds from a save to the first answer of the new code, under requests; beside it the other reloaders."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from backend.process import status
from backend.process.process import State
from benchmarks.commands import BIN, ROOT, environment, free_port, running
from benchmarks.measure import Figure, progress, side_by_side
from benchmarks.poller import Poller

# In all rounds together: of ours and of the first peer, and of each other peer.
SAVES = 50
SAVES_OF_OTHERS = 10
# Seconds after which a save has been missed; it counts as that long.
MISSED = 20.0
# Seconds without an old answer before the next save, and after the start: no peer says when it has begun to watch.
CALM = 0.3
SETTLED = 1.0

OURS = "this server"

SMALL = """
    import os
    from fastapi import FastAPI

    NUMBER = 0
    app = FastAPI()

    @app.get("/")
    async def number():
        return {"number": NUMBER}
"""
ROUTE = """
    class Item{0}(BaseModel):
        name: str = Field(max_length=100)
        count: int = Field(default=1, ge=0)
        tags: list[str] = []

    @app.post("/items{0}/{{key}}")
    async def item{0}(key: int, item: Item{0}) -> Item{0}:
        return item
"""
# For the reloader that runs a script.
MAIN = """
    if __name__ == "__main__":
        import uvicorn
        uvicorn.run(app, port=int(os.environ["APP_PORT"]), access_log=False)
"""
HEAVY = SMALL.replace("import os", "import os\n    from pydantic import BaseModel, Field") + "".join(
    ROUTE.format(number) for number in range(60)
)
APPS = {"small": SMALL, "60 routes": HEAVY}

SERVER = """
    import os, sys
    from backend.app import run_processes
    from backend.process.http import serve_asgi
    from backend.process.process import AsyncAppProcess
    from backend.process.sockets import listen
    import app

    class Server(AsyncAppProcess):
        name = "server"

        async def serve(self, stopping):
            listener = listen("127.0.0.1", int(os.environ["APP_PORT"]), setting="APP_PORT")
            await serve_asgi(app.app, listener, stopping, self.ready)

    if __name__ == "__main__":
        sys.exit(run_processes(Server(), reload=True))
"""
# The same with a second process, which does not have the app.
PAIR = (
    SERVER.replace("    import app\n", "")
    .replace("            listener =", "            import app\n            listener =")
    .replace("run_processes(Server(),", "run_processes(Server(), Other(),")
    .replace(
        "    if __name__",
        """    class Other(AsyncAppProcess):
        name = "other"

        async def serve(self, stopping):
            self.ready()
            await stopping.wait()

    if __name__""",
    )
)

PEERS: dict[str, Callable[[str], list[str | Path]]] = {
    OURS: lambda port: [sys.executable, "server.py"],
    "uvicorn --reload": lambda port: [BIN / "uvicorn", "app:app", "--reload", "--port", port, "--no-access-log"],
    "fastapi dev": lambda port: [BIN / "fastapi", "dev", "app.py", "--port", port],
    "granian --reload": lambda port: [BIN / "granian", "--interface", "asgi", "--reload", "--port", port, "app:app"],
    "watchfiles": lambda port: [BIN / "watchfiles", "python app.py"],
}
SAVED_OFTEN = list(PEERS)[:2]


@dataclass
class Seen:
    """What was seen of one reloader: the median of each round in milliseconds, and the worst of all."""

    medians: list[float] = field(default_factory=list)
    longest: float = 0.0
    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    gap: float = 0.0


async def measure(rounds: int) -> list[Figure]:
    figures: list[Figure] = []
    _check_that_others_stay()
    for kind, code in APPS.items():
        seen = {name: Seen() for name in PEERS}
        for number in range(1, rounds + 1):
            for name, each in seen.items():
                saves = -(-(SAVES if name in SAVED_OFTEN else SAVES_OF_OTHERS) // rounds)
                await _round(name, code, saves, each)
                progress(f"round {number}, {kind} app: {name} {_told(each)}")
        figures.extend(_figures(kind, seen))
    return figures


def _told(seen: Seen) -> str:
    how = ", ".join(f"{count} {failure}" for failure, count in seen.failures.most_common())
    return (
        f"{seen.medians[-1]:.0f} ms; so far at most {seen.longest:.0f} ms,"
        f" {seen.failures.total()} of {seen.requests} requests failed{how and f' ({how})'},"
        f" {seen.dropped} idle connections closed unannounced, {seen.gap:.0f} ms without an answer"
    )


def _figures(kind: str, seen: dict[str, Seen]) -> Iterator[Figure]:
    def of_each(what: str, unit: str, value: Callable[[Seen], list[float]]) -> list[Figure]:
        return side_by_side(unit, {f"{name}, {kind} app: {what}": value(each) for name, each in seen.items()})

    yield from of_each("save to new answer", "ms", lambda each: each.medians)
    yield from of_each("longest save to new answer", "ms", lambda each: [each.longest])
    yield from of_each("failed requests, all rounds", "requests", lambda each: [each.failures.total()])
    yield from of_each("idle connections closed unannounced", "connections", lambda each: [each.dropped])
    yield from of_each("longest time without an answer", "ms", lambda each: [each.gap])


async def _round(name: str, code: str, saves: int, seen: Seen) -> None:
    with _served(name, {"app.py": code + MAIN, "server.py": SERVER}) as (process, project, port):
        await _answers(process, port)
        await asyncio.sleep(SETTLED)
        poller = Poller(port)
        polling = asyncio.ensure_future(poller.run())
        times: list[float] = []
        for number in range(1, saves + 1):
            times.append(1000 * await _save(project, number, poller))
            assert process.poll() is None, f"{name} ended with status {process.returncode}"
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
        await poller.end()
    seen.medians.append(median(times))
    seen.longest = max(seen.longest, *times)
    seen.requests += poller.requests
    seen.failures += poller.failures
    seen.dropped += poller.dropped
    seen.gap = max(seen.gap, 1000 * poller.longest_gap)


async def _save(project: Path, number: int, poller: Poller) -> float:
    """Seconds to the first answer of the new code."""
    text = (project / "app.py").read_text().replace(f"NUMBER = {number - 1}\n", f"NUMBER = {number}\n")
    poller.expect(number)
    began = asyncio.get_running_loop().time()
    _write(project / "app.py", text)
    try:
        async with asyncio.timeout(MISSED):
            took = await poller.first_answer() - began
            await poller.calm(CALM)
    except TimeoutError:
        return MISSED
    return took


def _write(path: Path, text: str) -> None:
    """At once, and seen as one change: the new file is made outside of the folder that is watched."""
    new = path.parents[1] / "new"
    new.write_text(text)
    new.replace(path)


@contextmanager
def _served(name: str, files: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Path, int]]:
    """Run a reloader in a new project of these files; gives its process, the project's folder, and the port."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        project = Path(folder) / "project"
        project.mkdir()
        for file, text in files.items():
            (project / file).write_text(textwrap.dedent(text))
        port = free_port()
        variables = environment(APP_PORT=str(port), DATA_DIR=str(Path(folder) / "data"), APP_ENV="development")
        if name == OURS:
            variables["PYTHONPATH"] = str(ROOT)
        else:  # with compiled modules they would not see a save of the same size within the same second
            variables["PYTHONDONTWRITEBYTECODE"] = "1"
        log = Path(folder) / "log"
        with log.open("wb") as output, running(PEERS[name](str(port)), project, variables, output) as process:
            try:
                yield process, project, port
            except AssertionError:
                progress(log.read_text(errors="replace")[-2000:])
                raise


async def _answers(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until somebody listens, which tells nobody when it begins."""
    while True:
        assert process.poll() is None, f"it ended with status {process.returncode}"
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)


def _check_that_others_stay() -> None:
    """A save of the app exchanges the process that has it, and no other of the same environment."""
    with _served(OURS, {"app.py": SMALL, "server.py": PAIR}) as (process, project, _):
        folder = project.parent / "data" / "run"
        deadline = time.monotonic() + 2 * MISSED
        before: dict[str, int] = {}
        while set(before) != {"server", "other"}:
            assert process.poll() is None, f"it ended with status {process.returncode}"
            assert time.monotonic() < deadline, "the two processes did not start"
            time.sleep(0.02)
            before = _pids(folder)
        time.sleep(SETTLED)
        _write(project / "app.py", (project / "app.py").read_text().replace("NUMBER = 0", "NUMBER = 1"))
        while _pids(folder).get("server") in (None, before["server"]):
            assert process.poll() is None, f"it ended with status {process.returncode}"
            assert time.monotonic() < deadline, "the saved module was not exchanged"
            time.sleep(0.02)
        time.sleep(SETTLED)  # in which a second exchange would be seen
        assert _pids(folder)["other"] == before["other"], "a process without the saved module was exchanged"
    progress("a second process, which does not have the saved module, keeps its pid")


def _pids(folder: Path) -> dict[str, int]:
    """Of the processes that serve; the newest of each name."""
    found = [each for each in status.read(folder) if each.state is State.RUNNING]
    return {each.name: each.pid for each in found if each.name in ("server", "other")}
