"""Whatever arrives at a block, it answers with JSON or with a sentence, never with a fault of its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.blocks.block import Block, BlockError, Context
from backend.blocks.coercion import InputError, prepare
from backend.blocks.registry import blocks
from backend.blocks.resources import close_resources

CONTEXT = Context("run", "graph", 1, "node", node_run=1, token="token")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "1",
        "-3",
        "9" * 30,
        "true",
        "[1, 2]",
        '{"a": 1}',
        "{{ x }}",
        "{% for a in b %}{{ a }}{% endfor %}",
        "(a|b)*",
        "<a>1</a>",
        "\\x41",
    ]
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts
arriving = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=6
)


@pytest.mark.parametrize("block", blocks().values(), ids=lambda block: block.name)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_block_answers_with_json_or_a_sentence(block: Block, data: st.DataObject) -> None:
    schema = block.Input.model_json_schema()["properties"]
    pins = {name: st.sampled_from(part["enum"]) if "enum" in part else arriving for name, part in schema.items()}
    arrived = data.draw(st.fixed_dictionaries({}, optional=pins))

    with suppress(InputError, BlockError):
        input, _ = prepare(block)(arrived)
        outputs = asyncio.run(_outputs(block, input))
        assert {pin for pin, _ in outputs} <= set(block.Output.model_fields)
        orjson.dumps([value for _, value in outputs])


async def _outputs(block: Block, input: Any) -> list[tuple[str, Any]]:
    try:
        return [pin_and_value async for pin_and_value in block.run(input, CONTEXT)]
    finally:
        await close_resources()
