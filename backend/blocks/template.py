"""Filling in Jinja templates within limits of time, memory and length; the block for it."""

from typing import Any

import orjson

from backend.blocks.block import Block, BlockError, BlockInput, BlockOutput, Category, Context, Example, Pins, pin
from backend.blocks.helpers import Helpers, TaskFailed
from backend.blocks.json_values import json_text
from backend.blocks.resources import kept


async def render(source: str, values: dict[str, Any], escape_html: bool = False) -> str:
    """Return the text of a template. Raises BlockError if it is wrong, takes too long or needs too much memory."""
    # jinja2 takes as long to import as all blocks together
    from backend.blocks import _sandbox  # noqa: PLC0415

    data = json_text(values)
    try:
        plan = _sandbox.plan(source, escape_html)
        if plan and plan.fits(len(data)):
            return _sandbox.sound(plan.template.render(values))
    except Exception as error:  # whatever a stranger's template raises is its own fault
        raise BlockError(_sentence(str(error), getattr(error, "lineno", None))) from None
    return await render_apart(kept(Helpers, Helpers), source, data, escape_html)


async def render_apart(helpers: Helpers, source: str, data: str, escape_html: bool) -> str:
    """Return the text of any template, filled by a helper with `data`, a JSON object. Raises BlockError."""
    try:
        return await helpers.do("template", source=source, values=orjson.Fragment(data), escape_html=escape_html)
    except TaskFailed as failure:
        raise BlockError(_sentence(str(failure), failure.line)) from None


def _sentence(reason: str, line: int | None) -> str:
    return f"The template failed: {reason.rstrip('.')}{f' (line {line})' if line else ''}."


class FillTextTemplateBlock(Block):
    """Fills values into a text with places for them, by the rules of Jinja: Hello {{name}}!"""

    id = "db7d8f02-2f44-4c55-ab7a-eae0941f0c30"
    categories = (Category.TEXT,)
    examples = (
        Example({"values": {"name": "Ann"}, "format": "Hello {{name}}!"}, [("output", "Hello Ann!")]),
        Example({"values": {}, "format": "Hello {{name}}!"}, [("output", "Hello !")]),
        Example(
            {"values": {"x": ["a", "b"]}, "format": "{% for y in x %}{{ loop.index }}.{{ y|upper }} {% endfor %}"},
            [("output", "1.A 2.B ")],
        ),
        Example({"values": {"n": 2}, "format": "{{ n * 21 }}"}, [("output", "42")]),
        Example({"values": {"a": "<b>"}, "format": "{{ a }}", "escape_html": True}, [("output", "&lt;b&gt;")]),
        Example(
            {"values": {}, "format": "{% if %}"},
            error="The template failed: Expected an expression, got 'end of statement block' (line 1).",
        ),
    )

    class Input(BlockInput):
        values: dict[str, Any] = pin("The values by name")
        format: str = pin("The template")
        escape_html: bool = pin("Whether to escape <, >, & and quotes in the values", default=False)

    class Output(BlockOutput):
        output: str = pin("The text")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "output", await render(input.format, input.values, input.escape_html)
