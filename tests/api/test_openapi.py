"""The served OpenAPI document keeps its word: schemathesis attacks the server by it, and finds nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.api.furnished import Furnisher, Ids

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# ATTACK="--max-examples 100 --seed 2" pytest tests/api/test_openapi.py attacks for longer, and in another way.
MORE = os.environ.get("ATTACK", "").split()

OPTIONS = [
    *("--seed", "1"),
    *("--suppress-health-check", "all"),
    *("--request-timeout", "20"),
    *("--warnings", "off"),
    *MORE,
]
# Examples have to be accepted. What else keeps to a schema may still be refused for what it means (422), as it says
# nothing of the inputs of this graph or the pins of this block; or, of a list or stream, for a cursor that is none of
# ours (400). Chains of requests find more than single ones, and cost less.
HOW = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 304, 401, 403, 404, 409, 412, 422]

[[operations]]
include-method = "GET"
checks.positive_data_acceptance.expected-statuses = ["2xx", 304, 400, 401, 403, 404, 409, 422]

[phases.examples.checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409]

[generation]
max-examples = 2

[phases.coverage]
unexpected-methods = ["PUT", "PATCH"]

[phases.stateful.generation]
max-examples = 20

# Some streams never end.
[[operations]]
include-path-regex = "/events$"
request-timeout = 1.0
"""


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


def real(ids: Ids) -> str:
    """The configuration of schemathesis by which most ids that it sends are of what there is."""
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(values)}\n" for name, values in ids.items()]
    bound = [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.7 }}' for name in ids]
    # Those of bodies: the graph of a schedule, the review that is decided.
    bound.append('"body.graph_id" = { dictionary = "graph_id", probability = 0.7 }')
    bound.append('"body.reviews[*].node_exec_id" = { dictionary = "node_exec_id", probability = 0.7 }')
    return "\n".join(["[parameters]", *bound, *lines, HOW])


# In two, as there are two cores; with two threads, CPython 3.11 goes wrong in the parser that hypothesis uses.
@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing,stateful"])
@pytest.mark.timeout(3600 if MORE else 240)
@pytest.mark.usefixtures("executor")
async def test_an_attack_by_the_document_finds_no_fault(
    phases: str, door: str, make_key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("backend.api.authentication.WRONG_KEYS", 1_000_000)
    monkeypatch.setattr("backend.api.streams.HEARTBEAT_EVERY", 0.3)
    headers = {"X-API-Key": await make_key(requests_per_minute=1_000_000)}
    async with aiohttp.ClientSession(door, headers=headers) as api:
        ids = await Furnisher(api).furnish()
        (tmp_path / "schemathesis.toml").write_text(real(ids))
        given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
        attack = await asyncio.create_subprocess_exec(
            *(str(SCHEMATHESIS), "run", f"{door}/openapi.json", "--phases", phases, *given, *OPTIONS),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await attack.communicate()
        assert attack.returncode == 0, told.decode()
        async with api.get("/api/v2/me") as answer:
            assert answer.status == 200, "the attack went on without a key"
