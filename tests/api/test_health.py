"""What watches over the server is told the truth."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from backend.api.health import _failures
from backend.process import roster
from backend.process.failure import Failure
from backend.process.roster import UnitState, UnitStatus
from backend.process.status import started
from backend.settings import Settings
from backend.store import executors
from backend.store.identifiers import new_id


async def test_a_server_with_its_database_is_ready(api):
    async with api.get("/readyz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok", "processes": [], "failures": []})


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_who_asks_for_the_head_alone_is_answered(api, path: str):
    async with api.head(path) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_readiness_waits_for_what_starts_and_shows_what_is_gone(api, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = {"name": "rest", "state": "initializing", "pid": os.getpid(), "since": 0, "started": started(os.getpid())}
    (folder / "rest.json").write_text(json.dumps(process))
    async with api.get("/readyz") as answer:
        assert answer.status == 503
        assert "rest is initializing" in (await answer.json(content_type=None))["detail"]
    (folder / "rest.json").write_text(json.dumps(process | {"state": "running"}))
    gone = {"name": "executor", "state": "running", "pid": 2**22, "since": 0, "started": "0"}
    (folder / "executor.json").write_text(json.dumps(gone))
    async with api.get("/readyz") as answer:
        assert answer.status == 200
        states = {each["name"]: each["state"] for each in (await answer.json())["processes"]}
    assert states == {"rest": "running", "executor": "stopped"}


async def test_failed_reloads_are_shown_in_development_while_the_old_code_serves(api, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = {"name": "rest", "state": "running", "pid": os.getpid(), "since": 0, "started": started(os.getpid())}
    (folder / "rest.1.json").write_text(json.dumps(process))
    (folder / "rest.2.json").write_text(json.dumps(process | {"state": "initializing"}))
    failure = Failure("SyntaxError: no", "backend/rest.py", 3, "    excerpt")
    unit = UnitStatus("rest", UnitState.RUNNING, os.getpid(), 0, None, 1, 0, None, failure, 0, held=True)
    units = [unit, replace(unit, name="db"), replace(unit, name="executor", held=False)]
    roster.write(folder, roster.own("@nowhere", units))
    async with api.get("/readyz") as answer:
        assert answer.status == 200
        told = (await answer.json())["failures"]
    expected = {"processes": ["rest", "db"], "sentence": "SyntaxError: no", "file": "backend/rest.py", "line": 3}
    assert told == [expected]


async def test_in_production_no_failed_reload_is_shown(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    unit = UnitStatus("rest", UnitState.RUNNING, os.getpid(), 0, None, 1, 0, None, Failure("secret"), 0, held=True)
    roster.write(folder, roster.own("@nowhere", [unit]))
    for app_env, expected in (("production", []), ("development", ["secret"])):
        assert [each.sentence for each in _failures(Settings(app_env=app_env, data_dir=tmp_path))] == expected


async def test_metrics_count_requests_by_operation_and_runs_by_status(api, start_run, queue_run):
    await start_run()
    await queue_run()
    for path in ("/api/v2/runs", "/nonsense/1", "/nonsense/2", "/api/v2/runs/01890000-0000-7000-8000-000000000000"):
        async with api.get(path):
            pass
    async with api.get("/metrics") as answer:
        figures = (await answer.text()).splitlines()
    assert 'agent_server_runs{status="queued"} 1.0' in figures
    assert 'agent_server_runs{status="running"} 1.0' in figures
    assert 'agent_server_runs{status="review"} 0.0' in figures
    counted = 'agent_server_http_requests_total{method="%s",route="%s",status="%s"} %s.0'
    assert counted % ("GET", "/api/v2/runs", 200, 1) in figures
    assert counted % ("GET", "/api/v2/runs/{run_id}", 404, 1) in figures
    assert counted % ("other", "none", 404, 2) in figures


async def test_metrics_tell_how_long_the_queue_has_waited_and_how_many_executors_are_alive(api, database, queue_run):
    async def figures() -> tuple[float, float]:
        async with api.get("/metrics") as answer:
            found = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if line[0] != "#")
        return (
            float(found["agent_server_oldest_queued_run_seconds"]),
            float(found["agent_server_executors"]),
        )

    assert await figures() == (0, 0)
    for _ in range(2):
        await queue_run()
        await executors.beat(database, new_id(), "one of two")
    await database.execute(
        "UPDATE runs SET created_at = now() - interval '1 hour' WHERE id = (SELECT id FROM runs LIMIT 1)"
    )
    age, alive = await figures()
    assert (age >= 3600, alive) == (True, 2)
    await database.execute("UPDATE executors SET heartbeat_at = now() - interval '1 hour'")
    assert (await figures())[1] == 0


async def test_the_root_leads_to_the_documentation_which_needs_no_other_host(api):
    async with api.get("/") as answer:
        page = await answer.text()
        assert (answer.status, answer.url.path) == (200, "/docs")
    assert "openapi.json" in page
    assert "https://" not in page
