"""Blocks that make one list of several."""

from itertools import chain, zip_longest
from typing import Any

from backend.blocks.block import (
    Block,
    BlockError,
    BlockInput,
    BlockOutput,
    Category,
    Context,
    Example,
    Items,
    Pins,
    pin,
)
from backend.blocks.json_values import identity

MAX_ITEMS = 1_000_000

_GAP = object()


class ConcatenateListsBlock(Block):
    """Puts lists one after the other."""

    id = "3cf9298b-5817-4141-9d80-7c2cc5199c8e"
    categories = (Category.DATA,)
    examples = (
        Example({"lists": [[1, 2], [3]]}, [("concatenated_list", [1, 2, 3]), ("length", 3)]),
        Example(
            {"lists": [[1, None], [{"a": 1}, 1, {"a": 1}]], "deduplicate": True, "remove_none": True},
            [("concatenated_list", [1, {"a": 1}]), ("length", 2)],
        ),
    )

    class Input(BlockInput):
        lists: list[Items] = pin("The lists")
        deduplicate: bool = pin("Whether to keep only the first of equal items", default=False)
        remove_none: bool = pin("Whether to leave out null", default=False)

    class Output(BlockOutput):
        concatenated_list: Items = pin("The one list")
        length: int = pin("How many items it has")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        items = list(chain.from_iterable(input.lists))
        if input.remove_none:
            items = [item for item in items if item is not None]
        if input.deduplicate:
            items = _unique(items)
        yield "concatenated_list", items
        yield "length", len(items)


class InterleaveListsBlock(Block):
    """Takes an item of each list in turn until all are used."""

    id = "9f616084-1d9f-4f8e-bc00-5b9d2a75cd75"
    categories = (Category.DATA,)
    examples = (Example({"lists": [[1, 2, 3], ["a"]]}, [("interleaved_list", [1, "a", 2, 3]), ("length", 4)]),)

    class Input(BlockInput):
        lists: list[Items] = pin("The lists")

    class Output(BlockOutput):
        interleaved_list: Items = pin("The one list")
        length: int = pin("How many items it has")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        _check_size(input.lists)
        items = [item for turn in zip_longest(*input.lists, fillvalue=_GAP) for item in turn if item is not _GAP]
        yield "interleaved_list", items
        yield "length", len(items)


class ZipListsBlock(Block):
    """Makes a list of the first items of all lists, one of the second items, and so on."""

    id = "0d0e684f-5cb9-4c4b-b8d1-47a0860e0c07"
    categories = (Category.DATA,)
    examples = (
        Example({"lists": [[1, 2], ["a", "b", "c"]]}, [("zipped_list", [[1, "a"], [2, "b"]]), ("length", 2)]),
        Example(
            {"lists": [[1], ["a", "b"]], "pad_to_longest": True, "fill_value": 0},
            [("zipped_list", [[1, "a"], [0, "b"]]), ("length", 2)],
        ),
    )

    class Input(BlockInput):
        lists: list[Items] = pin("The lists")
        pad_to_longest: bool = pin("Whether to fill the shorter lists up instead of cutting the longer", default=False)
        fill_value: Any = pin("What to fill up with", default=None)

    class Output(BlockOutput):
        zipped_list: Items = pin("The list of lists")
        length: int = pin("How many lists it has")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        _check_size(input.lists)
        fill = input.fill_value
        turns = zip_longest(*input.lists, fillvalue=fill) if input.pad_to_longest else zip(*input.lists, strict=False)
        zipped = [list(turn) for turn in turns]
        yield "zipped_list", zipped
        yield "length", len(zipped)


class ListDifferenceBlock(Block):
    """Gives out the items of one list that another does not have."""

    id = "05309873-9d61-447e-96b5-b804e2511829"
    categories = (Category.DATA,)
    examples = (
        Example({"list_a": [1, 2, 3], "list_b": [2]}, [("difference", [1, 3]), ("length", 2)]),
        Example({"list_a": [1, 2], "list_b": [2, 3], "symmetric": True}, [("difference", [1, 3]), ("length", 2)]),
    )

    class Input(BlockInput):
        list_a: Items = pin("The list to take from")
        list_b: Items = pin("The list of what to leave out")
        symmetric: bool = pin("Whether to add what only list_b has", default=False)

    class Output(BlockOutput):
        difference: Items = pin("The items in only one list")
        length: int = pin("How many they are")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        difference = _without(input.list_a, input.list_b)
        if input.symmetric:
            difference += _without(input.list_b, input.list_a)
        yield "difference", difference
        yield "length", len(difference)


class ListIntersectionBlock(Block):
    """Gives out the items that two lists share, each once."""

    id = "b6eb08b6-dbe3-411b-b9b4-2508cb311a1f"
    categories = (Category.DATA,)
    examples = (Example({"list_a": [1, 2, 2, [3]], "list_b": [[3], 2]}, [("intersection", [2, [3]]), ("length", 2)]),)

    class Input(BlockInput):
        list_a: Items = pin("One list")
        list_b: Items = pin("The other list")

    class Output(BlockOutput):
        intersection: Items = pin("The items in both, in the order of list_a")
        length: int = pin("How many they are")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        others = {identity(item) for item in input.list_b}
        shared = _unique([item for item in input.list_a if identity(item) in others])
        yield "intersection", shared
        yield "length", len(shared)


def _unique(items: Items) -> Items:
    # Read backwards, so that the first of equal items is the one that stays.
    first = {identity(item): place for place, item in reversed(list(enumerate(items)))}
    return [items[place] for place in sorted(first.values())]


def _without(items: Items, others: Items) -> Items:
    unwanted = {identity(item) for item in others}
    return [item for item in items if identity(item) not in unwanted]


def _check_size(lists: list[Items]) -> None:
    """Filling up makes many × long out of many + long: refuse what would exhaust the memory."""
    items = len(lists) * max(map(len, lists), default=0)
    if items > MAX_ITEMS:
        raise BlockError(f"Filled up, the lists would have {items:,} items: {MAX_ITEMS:,} is the most.")
