"""Blocks that read marked-up text: XML, and the code in the fences of Markdown."""

import re
from typing import Any
from xml.parsers import expat

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin

MAX_DEPTH = 200

# Language models write a bare & where XML wants &amp;
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9a-fA-F]+);)")


class XMLParserBlock(Block):
    """Reads XML with one root into dictionaries and lists.

    An element becomes its text, or a dictionary of its parts; where a name repeats, a list of dictionaries with one
    entry each. Attributes are parts named @name, and text among other parts is named #text.
    """

    id = "286380af-9529-4b55-8be0-1d7c854abdb5"
    categories = (Category.TEXT,)
    examples = (
        Example({"input_xml": "<a><b>1</b><c>x & y</c></a>"}, [("parsed_xml", {"a": {"b": "1", "c": "x & y"}})]),
        Example({"input_xml": "<a><b>1</b><b>2</b></a>"}, [("parsed_xml", {"a": [{"b": "1"}, {"b": "2"}]})]),
        Example({"input_xml": "<a k='v'>t</a>"}, [("parsed_xml", {"a": {"@k": "v", "#text": "t"}})]),
        Example({"input_xml": "<a/>"}, [("parsed_xml", {"a": ""})]),
        Example({"input_xml": "<a><b></a>"}, error="The text is not XML: mismatched tag (line 1, column 9)."),
        Example(
            {"input_xml": "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"},
            error="The XML has a document type declaration (DOCTYPE), which is not allowed: remove it.",
        ),
    )

    class Input(BlockInput):
        input_xml: str = pin("The XML text")

    class Output(BlockOutput):
        parsed_xml: dict[str, Any] = pin("The root element by its name")
        error: str = pin("What went wrong, if the block failed")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "parsed_xml", parse_xml(input.input_xml)


def parse_xml(text: str) -> dict[str, Any]:
    """Return {name of the root: what is in it}. Raises BlockError."""
    # A document type could declare entities that read files or swell to gigabytes: there is none without it.
    parser = expat.ParserCreate()
    builder = _Builder()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        parser.Parse(_BARE_AMPERSAND.sub("&amp;", text.strip()), True)
    except expat.ExpatError as error:
        place = f"line {error.lineno}, column {error.offset + 1}"
        raise BlockError(f"The text is not XML: {expat.ErrorString(error.code)} ({place}).") from None
    except UnicodeEncodeError:
        raise BlockError("The text is not XML: it is not Unicode.") from None
    return builder.root


class _Builder:
    """Gathers (name, value) parts of the open elements, innermost last."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[list[tuple[str, Any]]] = []

    def doctype(self, *declaration: Any) -> None:
        raise BlockError("The XML has a document type declaration (DOCTYPE), which is not allowed: remove it.")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) == MAX_DEPTH:
            raise BlockError(f"The XML is more than {MAX_DEPTH} elements deep.")
        self._open.append([(f"@{key}", value) for key, value in attributes.items()])

    def text(self, data: str) -> None:
        if data.strip():
            self._open[-1].append(("#text", data.strip()))

    def end(self, name: str) -> None:
        value = _content(self._open.pop())
        if self._open:
            self._open[-1].append((name, value))
        else:
            self.root = {name: value}


def _content(parts: list[tuple[str, Any]]) -> Any:
    if all(name == "#text" for name, _ in parts):
        return " ".join(value for _, value in parts)
    names = {name for name, _ in parts}
    return dict(parts) if len(names) == len(parts) else [{name: value} for name, value in parts]


# Output pin -> what authors write behind the three backticks.
LANGUAGES = {
    "html": ("html", "htm"),
    "css": ("css",),
    "javascript": ("javascript", "js", "jsx"),
    "python": ("python", "py", "python3"),
    "sql": ("sql",),
    "java": ("java",),
    "cpp": ("cpp", "c++"),
    "csharp": ("csharp", "c#", "cs"),
    "json_code": ("json",),
    "bash": ("bash", "sh", "shell", "zsh"),
    "php": ("php",),
    "ruby": ("ruby", "rb"),
    "yaml": ("yaml", "yml"),
    "markdown": ("markdown", "md"),
    "typescript": ("typescript", "ts", "tsx"),
    "xml": ("xml",),
}
_PIN_OF = {word: pin_name for pin_name, words in LANGUAGES.items() for word in words}
_FENCE = re.compile(r"```([\w+#-]+)[ \t]*\n(.*?)```", re.DOTALL)


class CodeExtractionBlock(Block):
    """Takes the code out of the fenced blocks of a text, by language."""

    id = "d3a7d896-3b78-4f44-8b4b-48fbf4f0bcd8"
    categories = (Category.TEXT,)
    examples = (
        Example(
            {"text": "First\n```py\nx = 1\n```\nthen\n```python\ny = 2\n```\n```sql\nSELECT 1\n```"},
            [("python", "x = 1\n\ny = 2"), ("sql", "SELECT 1"), ("remaining_text", "First\n\nthen")],
        ),
        Example({"text": "No code"}, [("remaining_text", "No code")]),
    )

    class Input(BlockInput):
        text: str = pin("The text with fenced code")

    class Output(BlockOutput):
        html: str = pin("HTML code")
        css: str = pin("CSS code")
        javascript: str = pin("JavaScript code")
        python: str = pin("Python code")
        sql: str = pin("SQL code")
        java: str = pin("Java code")
        cpp: str = pin("C++ code")
        csharp: str = pin("C# code")
        json_code: str = pin("JSON")
        bash: str = pin("Shell code")
        php: str = pin("PHP code")
        ruby: str = pin("Ruby code")
        yaml: str = pin("YAML")
        markdown: str = pin("Markdown")
        typescript: str = pin("TypeScript code")
        xml: str = pin("XML")
        remaining_text: str = pin("The text without that code")

    async def run(self, input: Input, context: Context) -> Pins:
        code: dict[str, list[str]] = {}

        def take(fence: re.Match[str]) -> str:
            pin_name = _PIN_OF.get(fence[1].lower())
            if pin_name is None:
                return fence[0]
            code.setdefault(pin_name, []).append(fence[2].strip("\n"))
            return ""

        remaining = _FENCE.sub(take, input.text).strip()
        for pin_name in LANGUAGES:
            if pin_name in code:
                yield pin_name, "\n\n".join(code[pin_name])
        yield "remaining_text", remaining
