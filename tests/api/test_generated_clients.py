"""Clients that are generated from the contract: they come without a warning, and one lives the life of an agent."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from backend.contract import CURRENT
from tests.api.server import ECHO

GENERATOR = Path(sys.executable).with_name("openapi-python-client")
PACKAGE = "agent_server_client"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The generated Python client, to be imported."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "config.yaml").write_text("post_hooks: []\n")
    command = [str(GENERATOR), "generate", "--path", str(CURRENT), "--fail-on-warning", "--meta", "none"]
    options = ["--config", str(folder / "config.yaml"), "--output-path", str(folder / PACKAGE)]
    made = subprocess.run([*command, *options], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield PACKAGE
    sys.path.remove(str(folder))


class Life:
    """Calls operations of the generated client by their names, with its models as bodies."""

    def __init__(self, package: str, client: Any) -> None:
        self._package = package
        self._client = client
        self.models = importlib.import_module(f"{package}.models")

    async def do(self, operation: str, *path: Any, status: int = 200, **given: Any) -> Any:
        """What an operation (`runs.start_run`) answers, as the client reads it."""
        call = importlib.import_module(f"{self._package}.api.{operation}").asyncio_detailed
        answer = await call(*path, client=self._client, **given)
        assert answer.status_code == status, answer.content
        return answer.parsed

    def body(self, model: str, **fields: Any) -> Any:
        return getattr(self.models, model).from_dict(fields)


@pytest.fixture
async def life(package: str, door: str, make_key: Any) -> AsyncIterator[Life]:
    make = importlib.import_module(f"{package}.client").AuthenticatedClient
    async with make(door, await make_key(), raise_on_unexpected_status=True, timeout=30) as client:
        yield Life(package, client)


@pytest.mark.usefixtures("executor")
async def test_a_generated_client_lives_the_whole_life_of_an_agent(life: Life, tmp_path: Path):
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(ECHO))
    agent = life.body("CreateGraphBody", **json.loads(file.read_text()))
    assert (await life.do("graphs.validate_graph", body=agent.to_dict())).valid

    graph = await life.do("graphs.create_graph", status=201, body=agent)
    webhook = await life.do(
        "webhooks.create_webhook", status=201, body=life.body("NewWebhook", url="https://example.com/hooks")
    )
    start = life.body("StartRun", inputs={"Input": 5}, labels={"customer": "42"})
    run = await life.do("runs.start_run", graph.id, body=start, wait=30)
    assert (run.status, run.outputs.to_dict(), run.error) == ("COMPLETED", {"Output": [5]}, None)
    assert (await life.do("runs.get_run_outputs", run.id)).to_dict() == {"Output": [5]}
    [told] = (await life.do("webhooks.list_webhook_deliveries", webhook.id)).items
    assert (told.event_type, told.run_id) == ("run.completed", run.id)

    again = await life.do("runs.rerun_run", run.id, status=202)
    await life.do("runs.stream_run_events", again.id)  # to its end
    found = await life.do("runs.list_runs", label=["customer:42"], rerun_of=run.id)
    assert [(each.id, each.status) for each in found.items] == [(again.id, "COMPLETED")]

    cron = life.body("CreateSchedule", name="Yearly", graph_id=str(graph.id), cron="0 0 1 1 *", inputs={"Input": 1})
    schedule = await life.do("schedules.create_schedule", status=201, body=cron)
    assert schedule.next_run_times[0].utc == schedule.next_run_time
    fired = await life.do("schedules.fire_schedule", schedule.id, status=202)
    assert fired.schedule_id == schedule.id

    key = life.body("NewApiKey", name="Reader", permissions=["READ_RUN"])
    made = await life.do("access.create_api_key", status=201, body=key)
    assert made.api_key.permissions == ["READ_RUN"]
    shared = await life.do("runs.share_run", run.id, status=201)
    assert (await life.do("runs.get_shared_run", shared.share_token)).outputs.to_dict() == {"Output": [5]}

    await life.do("runs.unshare_run", run.id, status=204)
    await life.do("schedules.delete_schedule", schedule.id, status=204)
    await life.do("webhooks.delete_webhook", webhook.id, status=204)
    await life.do("runs.delete_run", run.id, status=204)
    await life.do("graphs.delete_graph", graph.id, status=204)
    await life.do("access.revoke_api_key", made.api_key.id, status=204)
    problem = await life.do("graphs.get_graph", graph.id, status=404)
    assert problem.code == "unknown_graph"


async def test_a_generated_client_keeps_files(life: Life):
    types = importlib.import_module(f"{PACKAGE}.types")
    file = types.File(payload=BytesIO(b"a,b\n1,2\n"), file_name="report.csv", mime_type="text/csv")
    stored = await life.do("files.upload_file", status=201, body=life.models.UploadFileBody(file=file))
    assert (stored.file_name, stored.content_type, stored.size) == ("report.csv", "text/csv", 8)
    assert (await life.do("files.download_file", stored.id)).payload.read() == b"a,b\n1,2\n"


@pytest.fixture
def npm(tmp_path: Path) -> Any:
    """Runs npm in a folder of its own; where it or its registry is missing, the test is skipped."""
    found = shutil.which("npm")
    if not found:
        pytest.skip("there is no npm")

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            found,
            *arguments,
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"npm_config_update_notifier": "false"},
        )
        out, told = await process.communicate()
        if b"code E" in told and arguments[0] == "install":
            pytest.skip(f"npm cannot install here: {told.decode().splitlines()[0]}")
        assert process.returncode == 0, told.decode()
        return out.decode()

    return run


async def test_a_client_in_typescript_is_generated_from_it(npm: Any, tmp_path: Path):
    quick = ("--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline", "--fetch-retries=0")
    await npm("install", *quick, "openapi-typescript@7", "typescript@5")
    said = await npm("exec", "--", "openapi-typescript", str(CURRENT), "-o", "api.d.ts")
    assert "⚠" not in said
    assert "start_run: {" in (tmp_path / "api.d.ts").read_text()
