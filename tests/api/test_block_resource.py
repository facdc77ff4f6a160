"""Blocks: listed with their schemas, and executed directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from backend.blocks import registry

BLOCKS = "/api/v2/blocks"
CALCULATOR = f"{BLOCKS}/b1ab9b19-67a6-406d-abf5-2dba76d00c79"
STEP_THROUGH = f"{BLOCKS}/f66a3543-28d3-4ab5-8945-9b336371e2ce"


async def test_blocks_are_listed_as_upstream_lists_them(api):
    async with api.get(BLOCKS) as answer:
        blocks = {block["name"]: block for block in await answer.json()}
    calculator = blocks["CalculatorBlock"]
    assert {"operation", "a", "b"} <= calculator["inputSchema"]["properties"].keys()
    assert (calculator["uiType"], calculator["staticOutput"]) == ("Standard", False)
    assert blocks["AgentInputBlock"]["staticOutput"] is True
    async with api.get(CALCULATOR.upper().replace("/API/V2/BLOCKS", BLOCKS)) as answer:
        assert await answer.json() == calculator


async def test_a_block_is_executed_directly(api):
    async with api.post(f"{CALCULATOR}/execute", json={"operation": "Multiply", "a": 6, "b": 7}) as answer:
        assert (answer.status, await answer.json()) == (200, {"result": [42]})
    async with api.post(f"{STEP_THROUGH}/execute", json={"items": ["a", "b"]}) as answer:
        assert (await answer.json())["item"] == ["a", "b"]


async def test_a_block_that_fails_puts_out_its_error(api):
    async with api.post(f"{CALCULATOR}/execute", json={"operation": "Divide", "a": 1, "b": 0}) as answer:
        assert answer.status == 200
        (error,) = (await answer.json())["error"]
    assert error


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"operation": "Add", "a": 1}, ["/b"]),
        ({"operation": "Add", "a": 1, "b": 2, "c": 3}, ["/c"]),
        ({"operation": "Guess", "a": 1, "b": 2}, ["/operation"]),
        ({}, ["/operation", "/a", "/b"]),
    ],
)
async def test_wrong_pins_are_named(api, body, pointers):
    async with api.post(f"{CALCULATOR}/execute", json=body) as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (422, "invalid_request")
        assert sorted(error["pointer"] for error in problem["errors"]) == sorted(pointers)


async def test_a_block_that_takes_too_long_is_cut_off(api, monkeypatch):
    async def run(*_: object) -> AsyncIterator[tuple[str, object]]:
        await asyncio.Event().wait()
        yield "result", 1

    monkeypatch.setattr("backend.api.blocks.TIME_LIMIT", 0.01)
    monkeypatch.setattr(registry.blocks()[CALCULATOR.rpartition("/")[2]], "run", run)
    async with api.post(f"{CALCULATOR}/execute", json={"operation": "Add", "a": 1, "b": 2}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (504, "block_timed_out")


async def test_a_block_we_do_not_have_is_named_where_its_name_is_known(api):
    async with api.get(f"{BLOCKS}/nonsense") as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (404, "unknown_block")
    async with api.post(f"{BLOCKS}/f3a8f7e1-4b1d-4e5f-9f2a-7c3d5a2e6b4c/execute", json={}) as answer:
        assert "TranscribeYoutubeVideoBlock" in (await answer.json(content_type=None))["detail"]
