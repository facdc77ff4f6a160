"""The block that waits for a person's decision."""

from typing import Any

from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.graphs.catalogue import BlockKind


class HumanInTheLoopBlock(Block):
    """Waits until a person has approved or rejected the data."""

    id = "8b2a7b3c-6e9d-4a5f-8c1b-2e3f4a5b6c7d"
    categories = (Category.BASIC,)
    kind = BlockKind.REVIEW
    examples = (
        Example(
            {"data": {"to": "all"}, "name": "Send this?"},
            error="Nobody can be asked for a review here: use the block in an agent.",
        ),
    )

    class Input(BlockInput):
        data: Any = pin("What is to be reviewed")
        name: str = pin("What the person is to look at")
        editable: bool = pin("Whether the person may change the data", default=True)

    class Output(BlockOutput):
        approved_data: Any = pin("The data, as changed, if it was approved")
        rejected_data: Any = pin("The data, if it was rejected")
        review_message: str = pin("What the person said, if anything")

    async def run(self, input: Input, context: Context) -> Pins:
        review = await context.outside.review(input.data, input.name, input.editable)
        yield "approved_data" if review.approved else "rejected_data", review.data
        if review.message:
            yield "review_message", review.message
