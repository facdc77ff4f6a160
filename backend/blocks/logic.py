"""Decisions, counting, converting, arithmetic, and stepping through many values."""

import math
from typing import Any, Literal

import orjson

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
from backend.blocks.coercion import coerce
from backend.blocks.json_values import is_dict, is_list, kind_of

MAX_STEPS = 10_000

Operator = Literal["==", "!=", ">", "<", ">=", "<="]
Operation = Literal["Add", "Subtract", "Multiply", "Divide", "Power"]
Type = Literal["string", "number", "boolean", "list", "dictionary"]


class ConditionBlock(Block):
    """Compares two values, numbers as numbers also when written as text, and takes one of two ways."""

    id = "715696a0-e1da-45c8-b209-c2fa9c3b0be6"
    categories = (Category.LOGIC,)
    examples = (
        Example(
            {"value1": 10, "operator": ">", "value2": "5", "yes_value": "more", "no_value": "less"},
            [("result", True), ("yes_output", "more")],
        ),
        Example({"value1": "a", "operator": "==", "value2": "b"}, [("result", False), ("no_output", "b")]),
        Example({"value1": "10", "operator": "<", "value2": "9"}, [("result", False), ("no_output", "9")]),
        Example(
            {"value1": "ten", "operator": "<", "value2": 9},
            error="Text and a number have no order: compare two numbers, or two texts.",
        ),
    )

    class Input(BlockInput):
        value1: Any = pin("The left value")
        operator: Operator = pin("How to compare")
        value2: Any = pin("The right value")
        yes_value: Any = pin("Given out if true; value1 if empty", default=None)
        no_value: Any = pin("Given out if false; value2 if empty", default=None)

    class Output(BlockOutput):
        result: bool = pin("Whether the comparison holds")
        yes_output: Any = pin("The yes value, if it holds")
        no_output: Any = pin("The no value, if it does not")

    async def run(self, input: Input, context: Context) -> Pins:
        holds = _compare(_number_if_any(input.value1), input.operator, _number_if_any(input.value2))
        yield "result", holds
        if holds:
            yield "yes_output", input.value1 if input.yes_value is None else input.yes_value
        else:
            yield "no_output", input.value2 if input.no_value is None else input.no_value


def _number_if_any(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def _compare(left: Any, operator: Operator, right: Any) -> bool:
    if operator in ("==", "!="):
        return (left == right) is (operator == "==")
    try:
        below, equal = left < right, left == right
    except TypeError:
        kinds = f"{kind_of(left)} and {kind_of(right)} have no order"
        raise BlockError(f"{kinds[0].upper()}{kinds[1:]}: compare two numbers, or two texts.") from None
    return {"<": below, "<=": below or equal, ">": not below and not equal, ">=": not below}[operator]


class IfInputMatchesBlock(Block):
    """Tells whether a value is the one expected, and takes one of two ways."""

    id = "6dbbc4b3-ca6c-42b6-b508-da52d23e13f2"
    categories = (Category.LOGIC,)
    examples = (
        Example(
            {"input": 10, "value": "10", "yes_value": "same", "no_value": "other"},
            [("result", True), ("yes_output", "same")],
        ),
        Example({"input": "a", "value": "b"}, [("result", False), ("no_output", "a")]),
        Example({"input": 0, "value": "none"}, [("result", False), ("no_output", 0)]),
    )

    class Input(BlockInput):
        input: Any = pin("The value to look at")
        value: Any = pin("The value expected; it is converted to the kind of the input")
        yes_value: Any = pin("Given out if they match; the input if empty", default=None)
        no_value: Any = pin("Given out if they do not; the input if empty", default=None)

    class Output(BlockOutput):
        result: bool = pin("Whether they match")
        yes_output: Any = pin("The yes value, if they match")
        no_output: Any = pin("The no value, if they do not")

    async def run(self, input: Input, context: Context) -> Pins:
        losses: list[str] = []
        matches = input.input == coerce(input.value, type(input.input), losses.append) and not losses
        yield "result", matches
        answer = input.yes_value if matches else input.no_value
        yield "yes_output" if matches else "no_output", input.input if answer is None else answer


class StepThroughItemsBlock(Block):
    """Gives out the items of a list, a dictionary or JSON text one after the other."""

    id = "f66a3543-28d3-4ab5-8945-9b336371e2ce"
    categories = (Category.LOGIC,)
    examples = (
        Example({"items": ["a", "b"]}, [("item", "a"), ("key", 0), ("item", "b"), ("key", 1)]),
        Example({"items_object": {"x": 1}}, [("item", 1), ("key", "x")]),
        Example({"items_str": "[7]"}, [("item", 7), ("key", 0)]),
        Example({"items_str": "7"}, error="items_str holds neither a list nor a dictionary: give JSON such as [1, 2]."),
    )

    class Input(BlockInput):
        items: Items = pin("A list", factory=Items, advanced=False)
        items_object: dict[Any, Any] = pin("A dictionary", factory=dict, advanced=False)
        items_str: str = pin("A list or dictionary as JSON text", default="", advanced=False)

    class Output(BlockOutput):
        item: Any = pin("An item")
        key: Any = pin("Its place in the list, or its key in the dictionary")

    async def run(self, input: Input, context: Context) -> Pins:
        steps = [
            step for source in (input.items, input.items_object, _loaded(input.items_str)) for step in _steps(source)
        ]
        if len(steps) > MAX_STEPS:
            raise BlockError(f"{len(steps):,} items are too many to step through: {MAX_STEPS:,} at a time.")
        for key, item in steps:
            yield "item", item
            yield "key", key


def _loaded(text: str) -> Any:
    try:
        value: Any = orjson.loads(text) if text.strip() else Items()
    except ValueError:
        value = None
    if not is_list(value) and not is_dict(value):
        raise BlockError("items_str holds neither a list nor a dictionary: give JSON such as [1, 2].")
    return value


def _steps(source: Any) -> list[tuple[Any, Any]]:
    items: Items = source if is_list(source) else []
    return list(source.items()) if is_dict(source) else list(enumerate(items))


class CalculatorBlock(Block):
    """Does arithmetic with two numbers."""

    id = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
    categories = (Category.LOGIC,)
    examples = (
        Example({"operation": "Add", "a": 5, "b": 34}, [("result", 39)]),
        Example({"operation": "Divide", "a": 1, "b": 4}, [("result", 0.25)]),
        Example({"operation": "Divide", "a": 7, "b": 2, "round_result": True}, [("result", 4)]),
        Example({"operation": "Multiply", "a": 10, "b": "2.5"}, [("result", 25)]),
        Example({"operation": "Divide", "a": 1, "b": 0}, error="1 cannot be divided by 0."),
        Example({"operation": "Power", "a": 10, "b": 400}, error="10 to the power of 400 is too large a number."),
        Example({"operation": "Power", "a": -1, "b": 0.5}, error="-1 to the power of 0.5 is not a real number."),
    )

    class Input(BlockInput):
        operation: Operation = pin("What to do with a and b")
        a: float = pin("The first number")
        b: float = pin("The second number")
        round_result: bool = pin("Whether to round the result to a whole number", default=False)

    class Output(BlockOutput):
        result: float = pin("The result; JSON has no infinity, so where there is none the block fails")

    async def run(self, input: Input, context: Context) -> Pins:
        result = _calculate(input.operation, input.a, input.b)
        yield "result", _plain(float(round(result)) if input.round_result else result)


def _calculate(operation: Operation, a: float, b: float) -> float:
    left, right = _plain(a), _plain(b)
    if operation == "Divide":
        if b == 0:
            raise BlockError(f"{left} cannot be divided by 0.")
        return _finite(a / b, f"{left} / {right}")
    if operation == "Power":
        return _finite(_power(a, b), f"{left} to the power of {right}")
    signs = {"Add": (a + b, "+"), "Subtract": (a - b, "-"), "Multiply": (a * b, "*")}
    result, sign = signs[operation]
    return _finite(result, f"{left} {sign} {right}")


def _power(a: float, b: float) -> float:
    if a < 0 and not b.is_integer():
        raise BlockError(f"{_plain(a)} to the power of {_plain(b)} is not a real number.")
    if a == 0 and b < 0:
        raise BlockError(f"0 to the power of {_plain(b)} would be a division by 0.")
    try:
        return a**b
    except OverflowError:
        return math.inf


def _finite(result: float, calculation: str) -> float:
    if not math.isfinite(result):
        raise BlockError(f"{calculation} is too large a number.")
    return result


def _plain(number: float) -> float:
    """Drop the `.0` of a whole number as far as floating point tells whole numbers apart."""
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


class CountItemsBlock(Block):
    """Counts what is in a list, a dictionary or a text; -1 for anything else."""

    id = "3c9c2f42-b0c3-435f-ba35-05f7a25c772a"
    categories = (Category.DATA,)
    examples = (
        Example({"collection": [1, 2, 3]}, [("count", 3)]),
        Example({"collection": {"a": 1}}, [("count", 1)]),
        Example({"collection": "four"}, [("count", 4)]),
        Example({"collection": 4}, [("count", -1)]),
    )

    class Input(BlockInput):
        collection: Any = pin("What to count in")

    class Output(BlockOutput):
        count: int = pin("The number of items, entries or characters")

    async def run(self, input: Input, context: Context) -> Pins:
        collection = input.collection
        countable = isinstance(collection, str) or is_list(collection) or is_dict(collection)
        yield "count", len(collection) if countable else -1


_TYPES: dict[Type, Any] = {"string": str, "number": float, "boolean": bool, "list": list, "dictionary": dict}


class UniversalTypeConverterBlock(Block):
    """Converts a value to text, a number, true or false, a list or a dictionary."""

    id = "95d1b990-ce13-4d88-9737-ba5c2070c97b"
    categories = (Category.BASIC,)
    examples = (
        Example({"value": 5, "type": "string"}, [("value", "5")]),
        Example({"value": "5.5", "type": "number"}, [("value", 5.5)]),
        Example({"value": "nan", "type": "number"}, [("value", 0)]),
        Example({"value": "true", "type": "boolean"}, [("value", True)]),
        Example({"value": "[1, 2]", "type": "list"}, [("value", [1, 2])]),
        Example({"value": "x", "type": "list"}, [("value", ["x"])]),
        Example({"value": ["x"], "type": "dictionary"}, [("value", {"0": "x"})]),
    )

    class Input(BlockInput):
        value: Any = pin("The value to convert")
        type: Type = pin("What to convert it to")

    class Output(BlockOutput):
        value: Any = pin("The converted value")

    async def run(self, input: Input, context: Context) -> Pins:
        converted = coerce(input.value, _TYPES[input.type], context.log)
        yield "value", _plain(converted) if isinstance(converted, float) else converted
