"""Blocks that make, read and change dictionaries. None of them changes the dictionary it is given."""

from typing import Any

import orjson

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.blocks.json_values import is_dict, is_list

Dictionary = dict[Any, Any]


class CreateDictionaryBlock(Block):
    """Makes a dictionary of values."""

    id = "b924ddf4-de4f-4b56-9a85-358930dcbc91"
    categories = (Category.DATA,)
    examples = (Example({"values": {"a": 1, "b": [2]}}, [("dictionary", {"a": 1, "b": [2]})]),)

    class Input(BlockInput):
        values: dict[str, Any] = pin("The entries")

    class Output(BlockOutput):
        dictionary: dict[str, Any] = pin("The dictionary")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "dictionary", input.values


class AddToDictionaryBlock(Block):
    """Adds one entry, or several, to a dictionary; without a dictionary it begins one."""

    id = "31d1064e-7446-4693-a7d4-65e5ca1180d1"
    categories = (Category.DATA,)
    examples = (
        Example({"dictionary": {"a": 1}, "key": "b", "value": 2}, [("updated_dictionary", {"a": 1, "b": 2})]),
        Example({"entries": {"a": 1, "b": 2}}, [("updated_dictionary", {"a": 1, "b": 2})]),
        Example({"dictionary": {"a": 1}, "key": "b"}, [("updated_dictionary", {"a": 1})]),
    )

    class Input(BlockInput):
        dictionary: Dictionary = pin("The dictionary to begin with", factory=dict, advanced=False)
        key: str = pin("The key of the new entry", default="", advanced=False)
        value: Any = pin("The value of the new entry", default=None, advanced=False)
        entries: Dictionary = pin("Several new entries", factory=dict)

    class Output(BlockOutput):
        updated_dictionary: Dictionary = pin("The dictionary with the new entries")

    async def run(self, input: Input, context: Context) -> Pins:
        entry = {input.key: input.value} if input.key and input.value is not None else {}
        yield "updated_dictionary", {**input.dictionary, **entry, **input.entries}


class FindInDictionaryBlock(Block):
    """Looks a key up in a dictionary, in a list, or in JSON text of one.

    In a list a number finds the item at that place; a text finds the value under that key in each of the items.
    """

    id = "0e50422c-6dee-4145-83d6-3a5a392f65de"
    categories = (Category.DATA,)
    examples = (
        Example({"input": {"a": 1}, "key": "a"}, [("output", 1)]),
        Example({"input": {"1": "one"}, "key": 1}, [("output", "one")]),
        Example({"input": ["x", "y"], "key": 1}, [("output", "y")]),
        Example({"input": [{"a": 1}, {"b": 2}, {"a": 3}], "key": "a"}, [("output", [1, 3])]),
        Example({"input": '{"a": 1}', "key": "a"}, [("output", 1)]),
        Example({"input": {"a": 1}, "key": "b"}, [("missing", {"a": 1})]),
        Example(
            {"input": "plain", "key": "a"}, error="The input is text that is not JSON: give a dictionary or a list."
        ),
    )

    class Input(BlockInput):
        input: Any = pin("The dictionary or list to look in")
        key: str | int = pin("The key, or the place in a list beginning with 0")

    class Output(BlockOutput):
        output: Any = pin("What was found")
        missing: Any = pin("The input, if nothing was found")

    async def run(self, input: Input, context: Context) -> Pins:
        found = _found(_read(input.input), input.key)
        if found:
            yield "output", found[0]
        else:
            yield "missing", input.input


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except ValueError:
        raise BlockError("The input is text that is not JSON: give a dictionary or a list.") from None


def _found(where: Any, key: str | int) -> list[Any]:
    """Return what is found as a list of one, or an empty list."""
    if is_dict(where):
        return [where[name] for name in (key, str(key)) if name in where][:1]
    if not is_list(where):
        return []
    if isinstance(key, int):
        return where[key : key + 1] if key >= 0 else []
    values = [item[key] for item in where if is_dict(item) and key in item]
    return [values] if values or not where else []


class RemoveFromDictionaryBlock(Block):
    """Removes an entry from a dictionary."""

    id = "46afe2ea-c613-43f8-95ff-6692c3ef6876"
    categories = (Category.DATA,)
    examples = (
        Example({"dictionary": {"a": 1, "b": 2}, "key": "a"}, [("updated_dictionary", {"b": 2})]),
        Example(
            {"dictionary": {"a": 1}, "key": "a", "return_value": True},
            [("updated_dictionary", {}), ("removed_value", 1)],
        ),
        Example({"dictionary": {"a": 1}, "key": "b"}, error="The dictionary has no key ‘b’."),
    )

    class Input(BlockInput):
        dictionary: Dictionary = pin("The dictionary")
        key: str | int = pin("The key of the entry to remove")
        return_value: bool = pin("Whether to give out the removed value", default=False)

    class Output(BlockOutput):
        updated_dictionary: Dictionary = pin("The dictionary without the entry")
        removed_value: Any = pin("The value that was removed, if asked for")

    async def run(self, input: Input, context: Context) -> Pins:
        key = _present(input.dictionary, input.key)
        yield "updated_dictionary", {name: value for name, value in input.dictionary.items() if name != key}
        if input.return_value:
            yield "removed_value", input.dictionary[key]


class ReplaceDictionaryValueBlock(Block):
    """Replaces the value of an entry of a dictionary."""

    id = "27e31876-18b6-44f3-ab97-f6226d8b3889"
    categories = (Category.DATA,)
    examples = (
        Example(
            {"dictionary": {"a": 1, "b": 2}, "key": "a", "value": 3},
            [("updated_dictionary", {"a": 3, "b": 2}), ("old_value", 1)],
        ),
        Example({"dictionary": {}, "key": "a", "value": 3}, error="The dictionary has no key ‘a’."),
    )

    class Input(BlockInput):
        dictionary: Dictionary = pin("The dictionary")
        key: str | int = pin("The key of the entry")
        value: Any = pin("The new value")

    class Output(BlockOutput):
        updated_dictionary: Dictionary = pin("The dictionary with the new value")
        old_value: Any = pin("The value it had")

    async def run(self, input: Input, context: Context) -> Pins:
        key = _present(input.dictionary, input.key)
        yield "updated_dictionary", {**input.dictionary, key: input.value}
        yield "old_value", input.dictionary[key]


def _present(dictionary: Dictionary, key: str | int) -> str | int:
    """Return the key as the dictionary has it: in JSON every key is text."""
    for name in (key, str(key)):
        if name in dictionary:
            return name
    raise BlockError(f"The dictionary has no key ‘{key}’.")


class DictionaryIsEmptyBlock(Block):
    """Tells whether a dictionary has no entries."""

    id = "a3cf3f64-6bb9-4cc6-9900-608a0b3359b0"
    categories = (Category.DATA,)
    examples = (
        Example({"dictionary": {}}, [("is_empty", True)]),
        Example({"dictionary": {"a": 1}}, [("is_empty", False)]),
    )

    class Input(BlockInput):
        dictionary: Dictionary = pin("The dictionary")

    class Output(BlockOutput):
        is_empty: bool = pin("Whether it has no entries")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "is_empty", not input.dictionary
