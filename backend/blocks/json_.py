"""Blocks that write values as JSON text and read them from it."""

from typing import Any

import orjson

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.blocks.json_values import json_text


class JSONEncoderBlock(Block):
    """Writes a value as JSON text."""

    id = "9a9d20c5-5b4d-4e94-8022-83b6cb72648a"
    categories = (Category.DATA,)
    examples = (Example({"data": {"a": [1, None, "ü"]}}, [("json_str", '{"a":[1,null,"ü"]}')]),)

    class Input(BlockInput):
        data: Any = pin("The value")

    class Output(BlockOutput):
        json_str: str = pin("The JSON text")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "json_str", json_text(input.data)


class JSONDecoderBlock(Block):
    """Reads a value from JSON text."""

    id = "2b935639-65bc-48fd-9f88-823cd706fcd9"
    categories = (Category.DATA,)
    examples = (
        Example({"json_str": '{"a": [1, null]}'}, [("data", {"a": [1, None]})]),
        Example(
            {"json_str": "NaN"},
            error="The text is not JSON: unexpected character, expected a JSON value (line 1, column 1).",
        ),
    )

    class Input(BlockInput):
        json_str: str = pin("The JSON text")

    class Output(BlockOutput):
        data: Any = pin("The value")

    async def run(self, input: Input, context: Context) -> Pins:
        try:
            data = orjson.loads(input.json_str)
        except orjson.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise BlockError(f"The text is not JSON: {error.msg.partition(':')[0]} ({place}).") from None
        yield "data", data
