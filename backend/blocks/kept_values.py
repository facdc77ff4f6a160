"""Blocks that keep values beyond a run, and look them up."""

from typing import Any, Literal

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin

MAX_KEY = 500  # characters; an index of the database holds no more than 2,700 bytes

Scope = Literal["within_agent", "across_agents"]


def _checked(key: str) -> str:
    if len(key) > MAX_KEY:
        raise BlockError(f"The key has {len(key):,} characters: {MAX_KEY} is the most.")
    if "\0" in key:
        raise BlockError("The key contains U+0000, which cannot be stored: remove it.")
    return key


class PersistInformationBlock(Block):
    """Keeps a value beyond the run, for this agent in all its versions, or for all agents."""

    id = "1d055e55-a2b9-4547-8311-907d05b0304d"
    categories = (Category.DATA,)
    examples = (
        Example({"key": "city", "value": "Bern"}, [("value", "Bern")]),
        Example({"key": "\0", "value": 1}, error="The key contains U+0000, which cannot be stored: remove it."),
        Example({"key": "k" * 501, "value": 1}, error="The key has 501 characters: 500 is the most."),
    )

    class Input(BlockInput):
        key: str = pin("The name to keep the value under")
        value: Any = pin("The value to keep")
        scope: Scope = pin("Who can look it up: this agent, or every agent", default="within_agent")

    class Output(BlockOutput):
        value: Any = pin("The value kept")

    async def run(self, input: Input, context: Context) -> Pins:
        across = input.scope == "across_agents"
        await context.outside.keep(_checked(input.key), input.value, across_agents=across)
        yield "value", input.value


class RetrieveInformationBlock(Block):
    """Looks up a value that was kept."""

    id = "d8710fc9-6e29-481e-a7d5-165eb16f8471"
    categories = (Category.DATA,)
    static_output = True
    examples = (Example({"key": "city", "default_value": "Basel"}, [("value", "Basel")]),)

    class Input(BlockInput):
        key: str = pin("The name the value was kept under")
        scope: Scope = pin("Where to look: at this agent's values, or at those of all agents", default="within_agent")
        default_value: Any = pin("What to give if there is no value", default=None)

    class Output(BlockOutput):
        value: Any = pin("The value, or the default")

    async def run(self, input: Input, context: Context) -> Pins:
        found = await context.outside.recall(_checked(input.key), across_agents=input.scope == "across_agents")
        yield "value", input.default_value if found is None else found
