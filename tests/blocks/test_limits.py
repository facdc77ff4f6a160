"""Little input cannot be made into much: what would fill the memory is refused first."""

from __future__ import annotations

from typing import Any

import pytest

from backend.blocks.block import BlockError
from backend.blocks.clock import GetCurrentDateAndTimeBlock
from backend.blocks.json_ import JSONDecoderBlock
from backend.blocks.lists import FlattenListBlock
from backend.blocks.lists_combined import ConcatenateListsBlock, InterleaveListsBlock, ZipListsBlock
from backend.blocks.logic import CalculatorBlock, StepThroughItemsBlock
from backend.blocks.markup import CodeExtractionBlock, XMLParserBlock
from backend.blocks.text import CombineTextsBlock, TextReplaceBlock

MEGA = "a" * 1_000_000

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "replace": (TextReplaceBlock(), {"text": MEGA, "old": "a", "new": MEGA}, "1,000,000,000,000 characters"),
    "replace nothing": (TextReplaceBlock(), {"text": MEGA, "old": "", "new": MEGA}, "33,554,432 is the most"),
    "join": (CombineTextsBlock(), {"input": ["a"] * 1_000, "delimiter": MEGA}, "33,554,432 is the most"),
    "zip": (
        ZipListsBlock(),
        {"lists": [[1] * 10_000, *[[]] * 10_000], "pad_to_longest": True},
        "100,010,000 items: 1,000,000 is the most",
    ),
    "interleave": (InterleaveListsBlock(), {"lists": [[1] * 10_000, *[[]] * 10_000]}, "1,000,000 is the most"),
    "step": (
        StepThroughItemsBlock(),
        {"items": [1] * 6_000, "items_object": dict.fromkeys(map(str, range(6_000)))},
        "12,000",
    ),
    "xml depth": (XMLParserBlock(), {"input_xml": "<a>" * 100_000}, "more than 200 elements deep"),
    "json depth": (JSONDecoderBlock(), {"json_str": "[" * 100_000}, "not JSON"),
    "power": (CalculatorBlock(), {"operation": "Power", "a": 9e99, "b": 9e99}, "too large a number"),
    "product": (CalculatorBlock(), {"operation": "Multiply", "a": 1e200, "b": 1e200}, "too large a number"),
    "0 to the -1": (CalculatorBlock(), {"operation": "Power", "a": 0, "b": -1}, "division by 0"),
    "strftime": (
        GetCurrentDateAndTimeBlock(),
        {"trigger": "t", "format_type": {"discriminator": "strftime", "format": "%Y" * 1_000}},
        "2,000 characters",
    ),
}


@pytest.mark.parametrize(("block", "arrived", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_what_would_be_too_much_is_refused(block: Any, arrived: dict[str, Any], sentence: str, run: Any) -> None:
    with pytest.raises(BlockError, match=sentence):
        await run(block, arrived)


BOMBS = {
    "billion laughs": '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><l>&b;</l>',
    "a file": '<!DOCTYPE l [<!ENTITY f SYSTEM "file:///etc/passwd">]><l>&f;</l>',
    "another document type": '<!DOCTYPE l SYSTEM "http://127.0.0.1/l.dtd"><l/>',
    "a parameter": '<!DOCTYPE l [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><l/>',
}


@pytest.mark.parametrize("xml", BOMBS.values(), ids=BOMBS)
async def test_xml_declares_no_entities(xml: str, run: Any) -> None:
    with pytest.raises(BlockError, match="DOCTYPE"):
        await run(XMLParserBlock(), {"input_xml": xml})


async def test_an_entity_nobody_declared_is_read_as_text(run: Any) -> None:
    outputs = await run(XMLParserBlock(), {"input_xml": "<a>&nbsp; R&D &#65; &lt;</a>"})
    assert outputs == [("parsed_xml", {"a": "&nbsp; R&D A <"})]


async def test_a_list_of_a_thousand_levels_is_flattened(run: Any) -> None:
    nested: list[Any] = [1]
    for _ in range(999):
        nested = [nested]
    outputs = await run(FlattenListBlock(), {"nested_list": nested})
    assert outputs == [("flattened_list", [1]), ("length", 1), ("original_depth", 1_000)]


async def test_ten_thousand_fences_are_read_at_once(run: Any, responsive: Any) -> None:
    async with responsive():
        await run(CodeExtractionBlock(), {"text": "```python\n" * 10_001})
        await run(CodeExtractionBlock(), {"text": "```" * 50_000})


async def test_equal_items_are_found_whatever_their_kind(run: Any) -> None:
    lists = [[{"a": [1]}, "1", 1, None], [{"a": [1]}, "1", 1, None, True]]
    outputs = await run(ConcatenateListsBlock(), {"lists": lists, "deduplicate": True})
    assert outputs[0] == ("concatenated_list", [{"a": [1]}, "1", 1, None, True])
