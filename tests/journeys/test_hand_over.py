"""Real executor processes that come and go while a run is on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from backend.store import graphs
from tests.execution.engine import Engine, assert_gap_free
from tests.journeys.environment import PATIENCE, ROOT, settings_for, until
from tests.journeys.stub import OUTPUT, WEB_REQUEST, Stub, requests_one_by_one

StartExecutor = Callable[[], AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def executor(tmp_path: Path, free_port: Callable[[], int], database_url: str) -> StartExecutor:
    variables = settings_for(tmp_path, free_port, TRUSTED_HOSTS="127.0.0.1", DATABASE_URL=database_url)

    @contextmanager
    def start() -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen([sys.executable, "-m", "backend.executor"], cwd=ROOT, env=variables) as process:
            try:
                yield process
            finally:
                process.terminate()

    return start


async def test_a_request_under_way_when_its_executor_is_told_to_stop_is_made_once(
    engine: Engine, executor: StartExecutor, stub: Stub
):
    stub.gate.clear()
    graph_id = uuid4()
    await graphs.insert(engine.pool, graph_id, 1, "requests", requests_one_by_one(stub))
    run_id = await engine.queue(graph_id, items=["a", "b"])
    with executor() as old:
        await asyncio.to_thread(until, lambda: len(stub.received) == 2)
        with executor():
            old.terminate()
            answering = threading.Timer(1.0, stub.gate.set)
            answering.start()
            assert await asyncio.to_thread(old.wait, PATIENCE) == 143
            run, history = await engine.end_of(run_id)
            answering.join()
    assert (run.status, run.attempt) == ("COMPLETED", 2)
    assert history.outputs == {"answers": [{"ok": True}, {"ok": True}]}
    assert sorted(body["item"] for _, body in stub.received) == ["a", "b"]
    events = await engine.events(run_id)
    assert_gap_free(events)
    blocks = [event.data["block_id"] for event in events if event.type == "node.started"]
    assert (blocks.count(WEB_REQUEST), blocks.count(OUTPUT)) == (2, 2)
