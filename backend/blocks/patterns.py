"""Blocks that search text by regular expression, under limits that no expression can break."""

from typing import Any

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.blocks.helpers import Helpers, TaskFailed
from backend.blocks.json_values import as_text
from backend.blocks.resources import kept

MAX_TEXT = 1_000_000  # characters
MAX_PATTERN = 10_000  # characters
MAX_MATCHES = 1_000

# A search in place is short in any case: these for the steps in which `regex` does not look at the clock, …
MAX_INLINE_PATTERN = 1_000  # characters
MAX_INLINE_WORK = 1_000_000  # characters of the pattern times those of the text
INLINE_SECONDS = 0.01  # … this for all others. What needs longer is begun anew by a helper.


async def find(
    pattern: str, text: str, *, case_sensitive: bool = True, dot_all: bool = True, group: int = 0, limit: int = 1
) -> list[str]:
    """Return a group of each of the first `limit` matches. Raises BlockError, also when it takes too long."""
    # regex takes as long to import as all blocks together
    from backend.blocks._search import search  # noqa: PLC0415

    _check_lengths(pattern, text)
    arguments = (pattern, text, case_sensitive, dot_all, group, limit)
    try:
        if len(pattern) <= MAX_INLINE_PATTERN and len(pattern) * len(text) <= MAX_INLINE_WORK:
            return search(*arguments, seconds=INLINE_SECONDS)
    except ValueError as error:
        raise BlockError(str(error)) from None
    except TimeoutError:
        pass
    return await find_apart(kept(Helpers, Helpers), *arguments)


async def find_apart(
    helpers: Helpers, pattern: str, text: str, case_sensitive: bool, dot_all: bool, group: int, limit: int
) -> list[str]:
    """Do the same by a helper, whatever it costs up to the helper's limits."""
    facts = {"case_sensitive": case_sensitive, "dot_all": dot_all, "group": group, "limit": limit}
    try:
        return await helpers.do("search", pattern=pattern, text=text, **facts)
    except TaskFailed as failure:
        raise BlockError(str(failure)) from None


def _check_lengths(pattern: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise BlockError(f"The text has {len(text):,} characters: {MAX_TEXT:,} is the most a pattern is searched in.")
    if len(pattern) > MAX_PATTERN:
        raise BlockError(f"The pattern has {len(pattern):,} characters: {MAX_PATTERN:,} is the most.")


class MatchTextPatternBlock(Block):
    """Passes data on one way if a text holds a pattern, and another way if it does not."""

    id = "3060088f-6ed9-4928-9ba7-9c92823a7ccd"
    categories = (Category.TEXT,)
    examples = (
        Example({"text": "ABC", "match": "ab", "data": "X", "case_sensitive": False}, [("positive", "X")]),
        Example({"text": "ABC", "match": "ab", "data": "X"}, [("negative", "X")]),
        Example({"text": {"a": 1}, "match": '"a":1', "data": None}, [("positive", {"a": 1})]),
        Example(
            {"text": "x", "match": "(", "data": 1},
            error="The pattern is not a regular expression: missing ) at position 1.",
        ),
    )

    class Input(BlockInput):
        text: Any = pin("The text to search; other values are searched as JSON")
        match: str = pin("The regular expression")
        data: Any = pin("What to pass on; the text if empty")
        case_sensitive: bool = pin("Whether capitals differ from small letters", default=True)
        dot_all: bool = pin("Whether a dot stands for line ends too", default=True)

    class Output(BlockOutput):
        positive: Any = pin("The data, if the text holds the pattern")
        negative: Any = pin("The data, if it does not")

    async def run(self, input: Input, context: Context) -> Pins:
        text = as_text(input.text)
        found = await find(input.match, text, case_sensitive=input.case_sensitive, dot_all=input.dot_all)
        yield "positive" if found else "negative", input.text if input.data is None else input.data


class ExtractTextInformationBlock(Block):
    """Takes the pieces out of a text that fit a pattern."""

    id = "3146e4fe-2cdd-4f29-bd12-0c9d5bb4deb0"
    categories = (Category.TEXT,)
    examples = (
        Example(
            {"text": "a=1, b=2", "pattern": r"(\w)=(\d)", "group": 2},
            [("positive", "1"), ("matched_results", ["1"]), ("matched_count", 1)],
        ),
        Example(
            {"text": "a=1, b=2", "pattern": r"\d", "find_all": True},
            [("positive", "1"), ("positive", "2"), ("matched_results", ["1", "2"]), ("matched_count", 2)],
        ),
        Example(
            {"text": "none", "pattern": r"\d"},
            [("negative", "none"), ("matched_results", []), ("matched_count", 0)],
        ),
        Example({"text": "1", "pattern": r"\d", "group": 1}, error="The pattern has no group 1: it has 0."),
    )

    class Input(BlockInput):
        text: Any = pin("The text to search; other values are searched as JSON")
        pattern: str = pin("The regular expression")
        group: int = pin("The group to take; 0 is the whole match", default=0)
        case_sensitive: bool = pin("Whether capitals differ from small letters", default=True)
        dot_all: bool = pin("Whether a dot stands for line ends too", default=True)
        find_all: bool = pin("Whether to take every match, not only the first", default=False)

    class Output(BlockOutput):
        positive: str = pin("A piece that fits")
        negative: str = pin("The text, if nothing fits")
        matched_results: list[str] = pin("All pieces that fit")
        matched_count: int = pin("How many they are")

    async def run(self, input: Input, context: Context) -> Pins:
        text = as_text(input.text)
        pieces = await find(
            input.pattern,
            text,
            case_sensitive=input.case_sensitive,
            dot_all=input.dot_all,
            group=input.group,
            limit=MAX_MATCHES if input.find_all else 1,
        )
        for piece in pieces:
            yield "positive", piece
        if not pieces:
            yield "negative", text
        yield "matched_results", pieces
        yield "matched_count", len(pieces)
