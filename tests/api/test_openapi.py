"""The served OpenAPI document keeps its word: schemathesis attacks the server by it, and finds nothing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

OPTIONS = [
    *("--seed", "1"),
    *("--max-examples", "10"),
    *("--suppress-health-check", "all"),
    *("--request-timeout", "20"),
    # What a schema cannot say (inputs of this graph, pins of this block, cursors of ours) is rightly refused.
    *("--exclude-checks", "positive_data_acceptance"),
    *("--warnings", "off"),
]


async def test_the_document_describes_every_operation(api):
    async with api.get("/openapi.json") as answer:
        document = await answer.json()
    assert document["openapi"].startswith("3.1")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["tags"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("executor")
async def test_an_attack_by_the_document_finds_no_fault(
    door: str, make_key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.api.authentication.WRONG_KEYS", 1_000_000)
    key = await make_key(requests_per_minute=1_000_000)
    command = (str(SCHEMATHESIS), "run", f"{door}/openapi.json", "--header", f"X-API-Key: {key}", *OPTIONS)
    attack = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await attack.communicate()
    assert attack.returncode == 0, told.decode()
