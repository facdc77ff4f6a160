"""Every block keeps the promises of its examples, and has the pins that agent files expect."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from backend.blocks.block import Block, BlockError, Example, Varies
from backend.blocks.registry import blocks, catalogue, describe
from backend.graphs.catalogue import BlockKind

UPSTREAM = Path(__file__).parents[3] / "shared" / "reference" / "blocks.json"

EXAMPLES = [
    pytest.param(block, example, id=f"{block.name}-{number}")
    for block in blocks().values()
    for number, example in enumerate(block.examples)
]


@pytest.mark.parametrize(("block", "example"), EXAMPLES)
async def test_an_example_comes_true(block: Block, example: Example, run: Any) -> None:
    outputs: list[tuple[str, Any]] = []
    if example.error is None:
        await run(block, example.input, outputs)
    else:
        with pytest.raises(BlockError) as raised:
            await run(block, example.input, outputs)
        assert str(raised.value) == example.error

    assert [pin for pin, _ in outputs] == [pin for pin, _ in example.output]
    for (pin, value), (_, expected) in zip(outputs, example.output, strict=True):
        if isinstance(expected, Varies):
            assert expected.check(value), (pin, value)
        else:
            assert value == expected
            assert type(value) is type(expected)
        assert orjson.loads(orjson.dumps(value)) == value


@pytest.mark.parametrize("block", blocks().values(), ids=lambda block: block.name)
async def test_a_block_yields_only_pins_it_declares_and_leaves_its_input_alone(block: Block, run: Any) -> None:
    for example in block.examples:
        arrived = orjson.dumps(example.input)
        outputs: list[tuple[str, Any]] = []
        with contextlib.suppress(BlockError):
            await run(block, example.input, outputs)
        assert {pin for pin, _ in outputs} <= set(block.Output.model_fields)
        assert orjson.dumps(example.input) == arrived


@pytest.mark.parametrize("block", blocks().values(), ids=lambda block: block.name)
def test_a_block_is_described_in_words_and_schemas(block: Block) -> None:
    described = describe(block)

    assert described["description"]
    assert described["categories"]
    assert block.examples
    for schema in (described["inputSchema"], described["outputSchema"]):
        assert all(part["description"] for part in schema["properties"].values())
        assert "$ref" not in json.dumps(schema)
    assert "error" in described["outputSchema"]["properties"]
    orjson.dumps(described)


def _ours_and_theirs() -> list[Any]:
    if not UPSTREAM.exists():
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=f"{UPSTREAM} is not there"))]
    theirs = {block["id"]: block for block in json.loads(UPSTREAM.read_text())}
    return [pytest.param(theirs[id], id=block.name) for id, block in blocks().items() if id in theirs]


@pytest.mark.parametrize("theirs", _ours_and_theirs())
def test_pins_are_those_that_agent_files_use(theirs: dict[str, Any]) -> None:
    ours = catalogue()[theirs["id"]]

    assert ours.name == theirs["name"]
    assert ours.kind == BlockKind(theirs["uiType"])
    assert ours.static_output == theirs["staticOutput"]
    assert _facts(ours.input_schema) == _facts(theirs["inputSchema"])
    assert _pins(ours.output_schema) - {"error"} == _pins(theirs["outputSchema"]) - {"error"}


def _pins(schema: Any) -> set[str]:
    return set(schema["properties"])


def _facts(schema: Any) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        name: (
            part.get("type"),
            part.get("enum"),
            [arm.get("type") for arm in part.get("anyOf", [])],
            name in required,
            part.get("advanced"),
        )
        for name, part in schema["properties"].items()
    }
