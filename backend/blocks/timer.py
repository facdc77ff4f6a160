"""The block that waits for some time."""

from typing import Any

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin

MAX_DAYS = 366


class CountdownTimerBlock(Block):
    """Waits for some time, then gives its message; again and again if told to."""

    id = "d67a9c52-5e4e-11e2-bcfd-0800200c9a71"
    categories = (Category.LOGIC,)
    examples = (
        Example({}, [("output_message", "timer finished")]),
        Example({"input_message": [1], "repeat": 2}, [("output_message", [1]), ("output_message", [1])]),
        Example({"seconds": "soon"}, error="‘soon’ is not a whole number of seconds."),
        Example({"days": 367}, error="A timer runs for 366 days at most."),
    )

    class Input(BlockInput):
        input_message: Any = pin("What to give when the time is over", default="timer finished", advanced=False)
        seconds: int | str = pin("How long to wait: seconds", default=0, advanced=False)
        minutes: int | str = pin("and minutes", default=0, advanced=False)
        hours: int | str = pin("and hours", default=0, advanced=False)
        days: int | str = pin("and days", default=0, advanced=False)
        repeat: int = pin("How many times to wait", default=1)

    class Output(BlockOutput):
        output_message: Any = pin("The message")

    async def run(self, input: Input, context: Context) -> Pins:
        total = _seconds(input)
        for _ in range(input.repeat):
            if total > 0:
                await context.outside.sleep(total)
            yield "output_message", input.input_message


def _seconds(input: CountdownTimerBlock.Input) -> int:
    parts = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    total = sum(_whole(getattr(input, unit), unit) * length for unit, length in parts.items())
    if total > MAX_DAYS * 86400:
        raise BlockError(f"A timer runs for {MAX_DAYS} days at most.")
    return total


def _whole(value: int | str, unit: str) -> int:
    try:
        return int(value or 0)
    except ValueError:
        raise BlockError(f"‘{str(value)[:40]}’ is not a whole number of {unit}.") from None
