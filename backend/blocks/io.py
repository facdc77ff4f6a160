"""The blocks where values enter and leave an agent, and those that hold, show and annotate them."""

from datetime import date, time
from typing import Annotated, Any

from pydantic import Field

from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Example, Items, Pins, pin
from backend.blocks.json_values import as_text
from backend.blocks.template import render
from backend.graphs.catalogue import BlockKind

ShortText = Annotated[str, Field(json_schema_extra={"format": "short-text"})]
LongText = Annotated[str, Field(json_schema_extra={"format": "long-text"})]


class _Labels(BlockInput):
    """What describes an input or output of the agent to the people who run it."""

    name: str = pin("The name of the value, unique within the agent")
    title: str | None = pin("The name that people see instead", default=None)
    description: str | None = pin("What the value is about", default=None)
    advanced: bool = pin("Whether to show it only on request", default=False)
    secret: bool = pin("Whether to hide the value from view", default=False)


class OfAgent(_Labels):
    """The pins of an agent's input beside its value."""

    placeholder_values: Items = pin("Values to offer", factory=Items, hidden=True)


class _AgentInput(Block):
    """Passes the value of an agent's input on, or nothing while there is none."""

    categories = (Category.INPUT, Category.BASIC)
    kind = BlockKind.INPUT
    static_output = True

    async def run(self, input: Any, context: Context) -> Pins:
        value = input.value
        if value is not None:
            yield "result", value.isoformat() if isinstance(value, date | time) else value


class AgentInputBlock(_AgentInput):
    """Takes a value of any kind into the agent."""

    id = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
    examples = (
        Example({"name": "city", "value": "Bern"}, [("result", "Bern")]),
        Example({"name": "city"}),
    )

    class Input(OfAgent):
        value: Any = pin("The value the agent is run with", default=None)

    class Output(BlockOutput):
        result: Any = pin("The value")


class AgentShortTextInputBlock(_AgentInput):
    """Takes one line of text into the agent."""

    id = "7fcd3bcb-8e1b-4e69-903d-32d3d4a92158"
    examples = (Example({"name": "title", "value": "Hello"}, [("result", "Hello")]),)

    class Input(OfAgent):
        value: ShortText | None = pin("The line of text", default=None, advanced=False)

    class Output(BlockOutput):
        result: str = pin("The text")


class AgentLongTextInputBlock(_AgentInput):
    """Takes a longer text into the agent."""

    id = "90a56ffb-7024-4b2b-ab50-e26c5e5ab8ba"
    examples = (Example({"name": "letter", "value": "Dear all,\nhello."}, [("result", "Dear all,\nhello.")]),)

    class Input(OfAgent):
        value: LongText | None = pin("The text, of any number of lines", default=None, advanced=False)

    class Output(BlockOutput):
        result: str = pin("The text")


class AgentNumberInputBlock(_AgentInput):
    """Takes a whole number into the agent."""

    id = "96dae2bb-97a2-41c2-bd2f-13a3b5a8ea98"
    examples = (
        Example({"name": "count", "value": 3}, [("result", 3)]),
        Example({"name": "count", "value": "3"}, [("result", 3)]),
    )

    class Input(OfAgent):
        value: int | None = pin("The number", default=None, advanced=False)

    class Output(BlockOutput):
        result: int = pin("The number")


class AgentDateInputBlock(_AgentInput):
    """Takes a date into the agent."""

    id = "7e198b09-4994-47db-8b4d-952d98241817"
    examples = (Example({"name": "day", "value": "2026-03-01"}, [("result", "2026-03-01")]),)

    class Input(OfAgent):
        value: date | None = pin("The date, as YYYY-MM-DD", default=None, advanced=False)

    class Output(BlockOutput):
        result: date = pin("The date, as YYYY-MM-DD")


class AgentTimeInputBlock(_AgentInput):
    """Takes a time of day into the agent."""

    id = "2a1c757e-86cf-4c7e-aacf-060dc382e434"
    examples = (Example({"name": "alarm", "value": "06:30"}, [("result", "06:30:00")]),)

    class Input(OfAgent):
        value: time | None = pin("The time, as HH:MM or HH:MM:SS", default=None, advanced=False)

    class Output(BlockOutput):
        result: time = pin("The time, as HH:MM:SS")


class AgentDropdownInputBlock(_AgentInput):
    """Takes one of several texts into the agent."""

    id = "655d6fdf-a334-421c-b733-520549c07cd1"
    examples = (Example({"name": "size", "value": "M", "placeholder_values": ["S", "M"]}, [("result", "M")]),)

    class Input(OfAgent):
        value: str | None = pin("The text that was chosen", default=None, advanced=False)
        placeholder_values: Items = pin("The texts to choose from", factory=Items, advanced=False)

    class Output(BlockOutput):
        result: str = pin("The text that was chosen")


class AgentToggleInputBlock(_AgentInput):
    """Takes true or false into the agent."""

    id = "cbf36ab5-df4a-43b6-8a7f-f7ed8652116e"
    examples = (
        Example({"name": "polite", "value": True}, [("result", True)]),
        Example({"name": "polite"}, [("result", False)]),
    )

    class Input(OfAgent):
        value: bool = pin("On or off", default=False, advanced=False)

    class Output(BlockOutput):
        result: bool = pin("On or off")


class AgentOutputBlock(Block):
    """Gives a value out as a result of the agent, by way of a template if one is given."""

    id = "363ae599-353e-4804-937e-b2ee3cef3da4"
    categories = (Category.OUTPUT, Category.BASIC)
    kind = BlockKind.OUTPUT
    static_output = True
    examples = (
        Example({"name": "sum", "value": 39}, [("output", 39), ("name", "sum")]),
        Example({"name": "sum", "value": 39, "format": "It is {{sum}}."}, [("output", "It is 39."), ("name", "sum")]),
        Example({"name": "a b", "value": 39, "format": "{{value}}!"}, [("output", "39!"), ("name", "a b")]),
    )

    class Input(_Labels):
        value: Any = pin("The value to give out", default=None, advanced=False)
        format: str = pin("A Jinja template; it knows the value by the output's name and as `value`", default="")
        escape_html: bool = pin("Whether the template escapes <, >, & and quotes", default=False)

    class Output(BlockOutput):
        output: Any = pin("The value, or the text made of it")
        name: Any = pin("The name of the output")

    def run(self, input: Input, context: Context) -> Pins:
        # Two generators, for one that never waits is run faster.
        return self._formatted(input) if input.format else self._plain(input)

    async def _plain(self, input: Input) -> Pins:
        yield "output", input.value
        yield "name", input.name

    async def _formatted(self, input: Input) -> Pins:
        yield "output", await render(input.format, {"value": input.value, input.name: input.value}, input.escape_html)
        yield "name", input.name


class StoreValueBlock(Block):
    """Holds a value that the blocks behind it may use again and again."""

    id = "1ff065e9-88e8-4358-9d82-8dc91f622ba9"
    categories = (Category.BASIC,)
    static_output = True
    examples = (
        Example({"input": "begin"}, [("output", "begin")]),
        Example({"input": "begin", "data": {"kept": 1}}, [("output", {"kept": 1})]),
        Example({"input": "begin", "data": 0}, [("output", 0)]),
        Example({"input": "begin", "data": ""}, [("output", "begin")]),
    )

    class Input(BlockInput):
        input: Any = pin("Sets the block off; this is the value, unless there is data")
        data: Any = pin("The value to hold", default=None)

    class Output(BlockOutput):
        output: Any = pin("The value held")

    async def run(self, input: Input, context: Context) -> Pins:
        # An empty field of a form arrives as "", which is no data either.
        yield "output", input.input if input.data is None or input.data == "" else input.data


class PrintToConsoleBlock(Block):
    """Writes a value to the log, for looking into an agent while it runs."""

    id = "f3b1c1b2-4c4f-4f0d-8d2f-4c4f0d8d2f4c"
    categories = (Category.BASIC,)
    examples = (Example({"text": "here"}, [("output", "here"), ("status", "printed")]),)

    class Input(BlockInput):
        text: Any = pin("The value to write")

    class Output(BlockOutput):
        output: Any = pin("The value, unchanged")
        status: str = pin("`printed`")

    async def run(self, input: Input, context: Context) -> Pins:
        context.log(as_text(input.text))
        yield "output", input.text
        yield "status", "printed"


class NoteBlock(Block):
    """Shows a remark to people who look at the agent."""

    id = "cc10ff7b-7753-4ff2-9af6-9399b1a7eddc"
    categories = (Category.BASIC,)
    kind = BlockKind.NOTE
    examples = (Example({"text": "Remember"}, [("output", "Remember")]),)

    class Input(BlockInput):
        text: str = pin("The remark")

    class Output(BlockOutput):
        output: str = pin("The remark")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "output", input.text
