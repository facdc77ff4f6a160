"""The block with which an agent begins that a trigger runs."""

from typing import Any

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.graphs.catalogue import BlockKind


class GenericWebhookTriggerBlock(Block):
    """Begins an agent with what was delivered to its trigger."""

    id = "8fa8c167-2002-47ce-aba8-97572fc5d387"
    categories = (Category.INPUT,)
    kind = BlockKind.TRIGGER
    examples = (
        Example(
            {"payload": {"action": "opened"}, "constants": {"channel": "news"}},
            output=(("payload", {"action": "opened"}), ("constants", {"channel": "news"})),
        ),
        Example({}, error="Nothing was delivered: the block begins with the payload of a trigger."),
    )

    class Input(BlockInput):
        # None, when nothing was delivered.
        payload: dict[str, Any] = pin("What was delivered: the trigger fills it in", default=None, hidden=True)
        constants: dict[str, Any] = pin("Values of your own to hand on with each delivery", factory=dict)

    class Output(BlockOutput):
        payload: dict[str, Any] = pin("What was delivered")
        constants: dict[str, Any] = pin("The constants")

    async def run(self, input: Input, context: Context) -> Pins:
        if input.payload is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise BlockError("Nothing was delivered: the block begins with the payload of a trigger.")
        yield "payload", input.payload
        yield "constants", input.constants
