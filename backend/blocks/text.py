"""Blocks that join, split, replace, escape and count text."""

import codecs
import re

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin

# Characters. Joining and replacing can make much of little.
MAX_TEXT = 32 * 1024 * 1024

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|[\\'\"abfnrtv])")


def _check_length(length: int) -> None:
    if length > MAX_TEXT:
        raise BlockError(f"The text would have {length:,} characters: {MAX_TEXT:,} is the most.")


class CombineTextsBlock(Block):
    """Joins texts to one."""

    id = "e30a4d42-7b7d-4e6a-b36e-1f9b8e3b7d85"
    categories = (Category.TEXT,)
    examples = (
        Example({"input": ["a", "b"], "delimiter": "-"}, [("output", "a-b")]),
        Example({"input": ["a", 1, None]}, [("output", "a1null")]),
    )

    class Input(BlockInput):
        input: list[str] = pin("The texts")
        delimiter: str = pin("What to put between them", default="")

    class Output(BlockOutput):
        output: str = pin("The one text")

    async def run(self, input: Input, context: Context) -> Pins:
        _check_length(sum(map(len, input.input)) + len(input.input) * len(input.delimiter))
        yield "output", input.delimiter.join(input.input)


class TextSplitBlock(Block):
    """Splits a text into parts."""

    id = "d5ea33c8-a575-477a-b42f-2fe3be5055ec"
    categories = (Category.TEXT,)
    examples = (
        Example({"text": "a, b", "delimiter": ","}, [("texts", ["a", "b"])]),
        Example({"text": "a, b", "delimiter": ",", "strip": False}, [("texts", ["a", " b"])]),
        Example({"text": "", "delimiter": ","}, [("texts", [])]),
        Example({"text": "ab", "delimiter": ""}, error="The delimiter is empty: give what stands between the parts."),
    )

    class Input(BlockInput):
        text: str = pin("The text")
        delimiter: str = pin("What stands between the parts")
        strip: bool = pin("Whether to remove white space around each part", default=True)

    class Output(BlockOutput):
        texts: list[str] = pin("The parts")

    async def run(self, input: Input, context: Context) -> Pins:
        if not input.delimiter:
            raise BlockError("The delimiter is empty: give what stands between the parts.")
        parts = input.text.split(input.delimiter) if input.text else []
        yield "texts", [part.strip() for part in parts] if input.strip else parts


class TextReplaceBlock(Block):
    """Replaces a piece of text by another wherever it occurs."""

    id = "7e7c87ab-3469-4bcc-9abe-67705091b713"
    categories = (Category.TEXT,)
    examples = (Example({"text": "a.b.c", "old": ".", "new": "/"}, [("output", "a/b/c")]),)

    class Input(BlockInput):
        text: str = pin("The text")
        old: str = pin("The piece to replace")
        new: str = pin("What to put in its place")

    class Output(BlockOutput):
        output: str = pin("The new text")

    async def run(self, input: Input, context: Context) -> Pins:
        _check_length(len(input.text) + input.text.count(input.old) * (len(input.new) - len(input.old)))
        yield "output", input.text.replace(input.old, input.new)


class TextDecoderBlock(Block):
    r"""Turns escapes such as \n and \u00e9 into the characters they stand for; all else stays."""

    id = "2570e8fe-8447-43ed-84c7-70d657923231"
    categories = (Category.TEXT,)
    examples = (
        Example({"text": r"a\nb \u00e9 é \"q\""}, [("decoded_text", 'a\nb é é "q"')]),
        Example({"text": r"\ud83d\ude00"}, [("decoded_text", "😀")]),
        Example({"text": r"C:\dir\q"}, [("decoded_text", r"C:\dir\q")]),
        Example({"text": r"\ud83d"}, error="The text has half of a \\u pair without the other half."),
    )

    class Input(BlockInput):
        text: str = pin("The text with escapes")

    class Output(BlockOutput):
        decoded_text: str = pin("The text without them")

    async def run(self, input: Input, context: Context) -> Pins:
        try:
            decoded = _ESCAPE.sub(lambda match: codecs.decode(match[0], "unicode_escape"), input.text)
            # Characters beyond \uffff are written as two halves; UTF-16 puts them together.
            whole = decoded.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            half = error.encoding.startswith("utf-16")
            raise BlockError(
                "The text has half of a \\u pair without the other half."
                if half
                else f"Not a character: {error.reason}."
            ) from None
        yield "decoded_text", whole


class TextEncoderBlock(Block):
    r"""Writes line ends and characters beyond ASCII as escapes such as \n and \u20ac."""

    id = "5185f32e-4b65-4ecf-8fbb-873f003f09d6"
    categories = (Category.TEXT,)
    examples = (Example({"text": "a\nb €"}, [("encoded_text", r"a\nb \u20ac")]),)

    class Input(BlockInput):
        text: str = pin("The text")

    class Output(BlockOutput):
        encoded_text: str = pin("The text with escapes")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "encoded_text", input.text.encode("unicode_escape").decode("ascii")


class WordCharacterCountBlock(Block):
    """Counts the words and characters of a text."""

    id = "ab2a782d-22cf-4587-8a70-55b59b3f9f90"
    categories = (Category.TEXT,)
    examples = (Example({"text": "Hello, how are you?"}, [("word_count", 4), ("character_count", 19)]),)

    class Input(BlockInput):
        text: str = pin("The text")

    class Output(BlockOutput):
        word_count: int = pin("The number of words")
        character_count: int = pin("The number of characters")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "word_count", len(input.text.split())
        yield "character_count", len(input.text)
