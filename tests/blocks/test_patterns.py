"""No regular expression holds the event loop up or runs for ever."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from backend.blocks.block import BlockError
from backend.blocks.helpers import Helpers
from backend.blocks.patterns import ExtractTextInformationBlock, MatchTextPatternBlock, find_apart
from backend.blocks.resources import kept

EXTRACT = ExtractTextInformationBlock()
MATCH = MatchTextPatternBlock()

ENDLESS = {
    "alternatives": (r"^(a|a)*$", "a" * 40 + "b"),
    "one by one": (r"(?:a*)*b|c", "a" * 30_000),
    "fuzzy": (r"(?b)(?:abcdefghijklmnopqrst){e<=15}", "a" * 1_000_000),
}


@pytest.mark.parametrize(("pattern", "text"), ENDLESS.values(), ids=ENDLESS)
async def test_a_search_without_end_is_ended(pattern: str, text: str, helpers: Helpers, responsive: Any) -> None:
    async with responsive():
        with pytest.raises(BlockError, match="The search took more than 1 seconds: make it simpler"):
            await find_apart(helpers, pattern, text, True, True, 0, 1000)

    assert await find_apart(helpers, "a", "bab", True, True, 0, 1000) == ["a"]


async def test_a_search_that_swells_is_ended(helpers: Helpers, responsive: Any) -> None:
    async with responsive():
        with pytest.raises(BlockError, match=r"more memory than it may have|took more than"):
            await find_apart(helpers, "((?1)a|b)", "a" * 1_000_000, True, True, 0, 1)


# The clock is not looked at while a character is compared with thousands of others.
BLIND = "[" + "".join(map(chr, range(0x4E00, 0x4E00 + 9_000))) + "]"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(BLIND, "a" * 1_000_000), (BLIND[:900] + "]", "a" * 1_100), *ENDLESS.values()],
    ids=["blind", "blind but short", *ENDLESS],
)
async def test_no_search_holds_the_event_loop_up(pattern: str, text: str, run: Any, responsive: Any) -> None:
    kept(Helpers, lambda: Helpers(seconds=1.0))
    async with responsive():
        with suppress(BlockError):
            await run(EXTRACT, {"text": text, "pattern": pattern, "find_all": True})


async def test_a_long_text_is_searched_by_a_helper(run: Any, children: Any) -> None:
    before = children()
    outputs = await run(EXTRACT, {"text": "ab " * 300_000 + "c1", "pattern": r"(\w)\d", "group": 1})
    assert outputs[0] == ("positive", "c")
    assert children() > before


async def test_a_long_text_is_not_searched_in_place_first(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **limits: Any) -> list[str]:
        raise AssertionError("searched in place")

    monkeypatch.setattr("backend.blocks._search.search", refuse)
    await run(MATCH, {"text": "a" * 1_000_000, "match": BLIND[:900] + "]", "data": 1})


@pytest.mark.parametrize(
    "pattern", ["(((a{1,9999}){1,9999}){1,9999}){1,9999}", "(" * 3_000 + ")" * 3_000, "a{99999999999}", "(" * 900]
)
async def test_a_pattern_that_is_costly_to_read_does_no_harm(pattern: str, run: Any, responsive: Any) -> None:
    async with responsive():
        with suppress(BlockError):
            await run(MATCH, {"text": "aaa", "match": pattern, "data": 1})


async def test_long_texts_and_patterns_are_refused(run: Any) -> None:
    with pytest.raises(BlockError, match="1,000,001 characters: 1,000,000 is the most"):
        await run(MATCH, {"text": "a" * 1_000_001, "match": "a", "data": 1})
    with pytest.raises(BlockError, match="The pattern has 10,001 characters"):
        await run(MATCH, {"text": "a", "match": "a" * 10_001, "data": 1})


async def test_matches_are_counted_up_to_a_limit(run: Any) -> None:
    outputs = await run(EXTRACT, {"text": "a" * 5_000, "pattern": "a", "find_all": True})
    assert outputs[-1] == ("matched_count", 1_000)


async def test_flags_are_honoured(run: Any) -> None:
    facts = {"text": "A\nB", "match": "a.b", "data": "d"}
    assert await run(MATCH, {**facts, "case_sensitive": False}) == [("positive", "d")]
    assert await run(MATCH, {**facts, "case_sensitive": False, "dot_all": False}) == [("negative", "d")]
    assert await run(MATCH, facts) == [("negative", "d")]


async def test_a_group_that_took_no_part_is_empty(run: Any) -> None:
    outputs = await run(EXTRACT, {"text": "b", "pattern": "(a)|b", "group": 1})
    assert outputs == [("positive", ""), ("matched_results", [""]), ("matched_count", 1)]
