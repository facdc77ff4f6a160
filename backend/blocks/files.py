"""The blocks that take files in and keep them."""

from typing import Annotated

from pydantic import Field

from backend.blocks._files import passed_on
from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.blocks.io import OfAgent
from backend.graphs.catalogue import BlockKind

FileText = Annotated[str, Field(json_schema_extra={"format": "file"})]

HELLO = "data:text/plain;base64,SGVsbG8="
NO_FILE = "'hello' is no file: give an agpt-file://, data:, http:// or https:// address."


class AgentFileInputBlock(Block):
    """Takes a file into the agent."""

    id = "95ead23f-8283-4654-aef3-10c053b74a31"
    categories = (Category.INPUT, Category.BASIC)
    kind = BlockKind.INPUT
    static_output = True
    examples = (
        Example({"name": "letter", "value": "data:text/plain,Hello", "base_64": True}, [("result", HELLO)]),
        Example({"name": "letter"}),
        Example({"name": "letter", "value": "hello"}, error=NO_FILE),
    )

    class Input(OfAgent):
        value: FileText | None = pin("The file: its file_uri, a data: URI or a URL", default=None, advanced=False)
        base_64: bool = pin("Whether to give it out as a data: URI, with all that is in it", default=False)

    class Output(BlockOutput):
        result: str = pin("The file: its file_uri, or a data: URI")

    async def run(self, input: Input, context: Context) -> Pins:
        if input.value:
            yield "result", await passed_on(input.value, input.base_64, context)


class FileStoreBlock(Block):
    """Keeps a file, from wherever it comes, among your files."""

    id = "cbb50872-625b-42f0-8203-a2ae78242d8a"
    categories = (Category.BASIC,)
    static_output = True
    examples = (
        Example({"file_in": HELLO, "base_64": True}, [("file_out", HELLO)]),
        Example({"file_in": "hello"}, error=NO_FILE),
        Example({"file_in": HELLO}, error="No files can be kept here: use the block in an agent."),
    )

    class Input(BlockInput):
        file_in: FileText = pin("The file: a file_uri, a data: URI or a URL")
        base_64: bool = pin("Whether to give it out as a data: URI instead of keeping it", default=False)

    class Output(BlockOutput):
        file_out: FileText = pin("The file: its file_uri, or a data: URI")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "file_out", await passed_on(input.file_in, input.base_64, context)
