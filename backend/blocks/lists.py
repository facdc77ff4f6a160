"""Blocks that make, read and change single lists. None of them changes the list it is given."""

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
from backend.blocks.json_values import as_text, is_list

# A rough measure that serves every model: English text has about four characters to a token.
CHARACTERS_PER_TOKEN = 4


class CreateListBlock(Block):
    """Makes a list of values, or several shorter ones where a size is given."""

    id = "a912d5c7-6e00-4542-b2a9-8034136930e4"
    categories = (Category.DATA,)
    examples = (
        Example({"values": [1, "b"]}, [("list", [1, "b"])]),
        Example({"values": [1, 2, 3], "max_size": 2}, [("list", [1, 2]), ("list", [3])]),
        Example(
            {"values": ["four", "four", "fourfour"], "max_tokens": 2}, [("list", ["four"] * 2), ("list", ["fourfour"])]
        ),
        Example({"values": []}, [("list", [])]),
    )

    class Input(BlockInput):
        values: Items = pin("The values")
        max_size: int | None = pin("The most values in one list", default=None, title="Largest size")
        max_tokens: int | None = pin("The most tokens in one list, at four characters each", default=None)

    class Output(BlockOutput):
        list: Items = pin("A list of values; several follow each other where a size is given")

    async def run(self, input: Input, context: Context) -> Pins:
        for chunk in _chunks(input.values, input.max_size, input.max_tokens):
            yield "list", chunk


def _chunks(values: Items, max_size: int | None, max_tokens: int | None) -> list[Items]:
    chunks: list[Items] = [[]]
    tokens = 0.0
    for value in values:
        more = len(as_text(value)) / CHARACTERS_PER_TOKEN if max_tokens else 0.0
        full = (max_size and len(chunks[-1]) >= max_size) or (max_tokens and tokens + more > max_tokens)
        if full and chunks[-1]:
            chunks.append([])
            tokens = 0.0
        chunks[-1].append(value)
        tokens += more
    return chunks


class AddToListBlock(Block):
    """Adds one value, or several, to a list; without a list it begins one."""

    id = "aeb08fc1-2fc1-4141-bc8e-f758f183a822"
    categories = (Category.DATA,)
    examples = (
        Example({"list": [1], "entry": 2}, [("updated_list", [1, 2])]),
        Example({"list": [1, 4], "entries": [2, 3], "position": 1}, [("updated_list", [1, 2, 3, 4])]),
        Example({"list": [1], "entry": 0}, [("updated_list", [1, 0])]),
        Example({"list": [1]}, [("updated_list", [1])]),
    )

    class Input(BlockInput):
        list: Items = pin("The list to begin with", factory=Items, advanced=False)
        entry: Any = pin("The value to add", default=None, advanced=False)
        entries: Items = pin("Several values to add", factory=Items)
        position: int | None = pin("Where to add, beginning with 0; the end if empty", default=None)

    class Output(BlockOutput):
        updated_list: Items = pin("The list with the new values")

    async def run(self, input: Input, context: Context) -> Pins:
        new = input.entries if input.entry is None else [*input.entries, input.entry]
        place = len(input.list) if input.position is None else input.position
        yield "updated_list", input.list[:place] + new + input.list[place:]


class FindInListBlock(Block):
    """Finds the first place of a value in a list."""

    id = "5e2c6d0a-1e37-489f-b1d0-8e1812b23333"
    categories = (Category.DATA,)
    examples = (
        Example({"list": ["a", "b"], "value": "b"}, [("index", 1), ("found", True)]),
        Example({"list": ["a"], "value": "c"}, [("found", False), ("not_found_value", "c")]),
    )

    class Input(BlockInput):
        list: Items = pin("The list")
        value: Any = pin("The value to find")

    class Output(BlockOutput):
        index: int = pin("Its place, beginning with 0")
        found: bool = pin("Whether it is there")
        not_found_value: Any = pin("The value, if it is not there")

    async def run(self, input: Input, context: Context) -> Pins:
        if input.value in input.list:
            yield "index", input.list.index(input.value)
            yield "found", True
        else:
            yield "found", False
            yield "not_found_value", input.value


class GetListItemBlock(Block):
    """Gives out the item at one place of a list."""

    id = "262ca24c-1025-43cf-a578-534e23234e97"
    categories = (Category.DATA,)
    examples = (
        Example({"list": ["a", "b"], "index": 1}, [("item", "b")]),
        Example({"list": ["a", "b"], "index": -1}, [("item", "b")]),
        Example({"list": ["a"], "index": 1}, error="The list has no item 1: it has 1, counted from 0."),
    )

    class Input(BlockInput):
        list: Items = pin("The list")
        index: int = pin("The place, beginning with 0; -1 is the last")

    class Output(BlockOutput):
        item: Any = pin("The item")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "item", input.list[_place(input.list, input.index)]


class RemoveFromListBlock(Block):
    """Removes an item from a list, by its place or its value."""

    id = "d93c5a93-ac7e-41c1-ae5c-ef67e6e9b826"
    categories = (Category.DATA,)
    examples = (
        Example({"list": [1, 2, 3], "index": 1}, [("updated_list", [1, 3])]),
        Example(
            {"list": ["a", "b", "a"], "value": "a", "return_item": True},
            [("updated_list", ["b", "a"]), ("removed_item", "a")],
        ),
        Example({"list": ["a"], "value": "b"}, error="The list has no item ‘b’."),
        Example({"list": ["a"]}, error="Nothing says what to remove: give a value or an index."),
    )

    class Input(BlockInput):
        list: Items = pin("The list")
        value: Any = pin("The value to remove, where it comes first", default=None)
        index: int | None = pin("The place of the item to remove, beginning with 0; -1 is the last", default=None)
        return_item: bool = pin("Whether to give out the removed item", default=False)

    class Output(BlockOutput):
        updated_list: Items = pin("The list without the item")
        removed_item: Any = pin("The item that was removed, if asked for")

    async def run(self, input: Input, context: Context) -> Pins:
        place = _place_of(input.list, input.value, input.index)
        yield "updated_list", input.list[:place] + input.list[place + 1 :]
        if input.return_item:
            yield "removed_item", input.list[place]


class ReplaceListItemBlock(Block):
    """Replaces the item at one place of a list."""

    id = "fbf62922-bea1-4a3d-8bac-23587f810b38"
    categories = (Category.DATA,)
    examples = (
        Example({"list": [1, 2], "index": 0, "value": 9}, [("updated_list", [9, 2]), ("old_item", 1)]),
        Example({"list": [], "index": 0, "value": 9}, error="The list has no item 0: it has 0, counted from 0."),
    )

    class Input(BlockInput):
        list: Items = pin("The list")
        index: int = pin("The place, beginning with 0; -1 is the last")
        value: Any = pin("The new item")

    class Output(BlockOutput):
        updated_list: Items = pin("The list with the new item")
        old_item: Any = pin("The item that was there")

    async def run(self, input: Input, context: Context) -> Pins:
        place = _place(input.list, input.index)
        yield "updated_list", [*input.list[:place], input.value, *input.list[place + 1 :]]
        yield "old_item", input.list[place]


def _place(items: Items, index: int) -> int:
    place = index if index >= 0 else len(items) + index
    if not 0 <= place < len(items):
        raise BlockError(f"The list has no item {index}: it has {len(items)}, counted from 0.")
    return place


def _place_of(items: Items, value: Any, index: int | None) -> int:
    if index is not None:
        return _place(items, index)
    if value is None:
        raise BlockError("Nothing says what to remove: give a value or an index.")
    if value not in items:
        raise BlockError(f"The list has no item ‘{as_text(value)[:100]}’.")
    return items.index(value)


class ListIsEmptyBlock(Block):
    """Tells whether a list has no items."""

    id = "896ed73b-27d0-41be-813c-c1c1dc856c03"
    categories = (Category.DATA,)
    examples = (Example({"list": []}, [("is_empty", True)]), Example({"list": [None]}, [("is_empty", False)]))

    class Input(BlockInput):
        list: Items = pin("The list")

    class Output(BlockOutput):
        is_empty: bool = pin("Whether it has no items")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "is_empty", not input.list


class ReverseListOrderBlock(Block):
    """Turns a list around."""

    id = "422cb708-3109-4277-bfe3-bc2ae5812777"
    categories = (Category.DATA,)
    examples = (Example({"input_list": [1, 2, 3]}, [("reversed_list", [3, 2, 1])]),)

    class Input(BlockInput):
        input_list: Items = pin("The list")

    class Output(BlockOutput):
        reversed_list: Items = pin("The list, last item first")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "reversed_list", input.input_list[::-1]


class FlattenListBlock(Block):
    """Puts the items of lists within a list into one flat list."""

    id = "cc45bb0f-d035-4756-96a7-fe3e36254b4d"
    categories = (Category.DATA,)
    examples = (
        Example(
            {"nested_list": [1, [2, [3]]]},
            [("flattened_list", [1, 2, 3]), ("length", 3), ("original_depth", 3)],
        ),
        Example(
            {"nested_list": [1, [2, [3]]], "max_depth": 1},
            [("flattened_list", [1, 2, [3]]), ("length", 3), ("original_depth", 3)],
        ),
    )

    class Input(BlockInput):
        nested_list: Items = pin("The list of lists")
        max_depth: int = pin("How many levels to flatten; -1 for all", default=-1)

    class Output(BlockOutput):
        flattened_list: Items = pin("The flat list")
        length: int = pin("How many items it has")
        original_depth: int = pin("How deep the list was: 1 is flat")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        level = flat = input.nested_list
        depth = 1
        while any(is_list(item) for item in level):  # level by level: a deep list does not exhaust the stack
            level = [inner for item in level for inner in (item if is_list(item) else [item])]
            flat = level if depth <= input.max_depth or input.max_depth < 0 else flat
            depth += 1
        yield "flattened_list", flat
        yield "length", len(flat)
        yield "original_depth", depth
