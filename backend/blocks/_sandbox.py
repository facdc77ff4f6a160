"""Jinja templates of strangers: what they may do, and which of them may be rendered in place.

A template that only looks values up costs what its size says, so it is rendered in place. Anything else, loops over
long lists, arithmetic, macros, could run for ever or fill the memory from inside the interpreter, where no check in
Python sees it. It goes to a helper process whose time and memory the kernel bounds (helpers.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT = 8 * 1024 * 1024  # characters
MAX_INLINE_SOURCE = 32 * 1024  # characters
MAX_INLINE_CODE = 4_000  # characters of it between braces: at 20 µs each it is compiled, once
MAX_INLINE_STEPS = 50_000  # a few milliseconds


_OPENING = re.compile(r"\{[{%]")
_CLOSING = re.compile(r"[}%]\}")


@cache
def environment(escape_html: bool) -> ImmutableSandboxedEnvironment:
    """Return the environment of all templates; variables that are missing come out empty."""
    made = ImmutableSandboxedEnvironment(autoescape=escape_html)
    for name in ("pprint", "tojson", "urlize", "xmlattr"):  # not offered where these templates come from either
        del made.filters[name]
    return made


# What a template may consist of to be rendered in place. Nothing here makes much of little, as `*`, `%` or a list do.
_PLAIN = (
    nodes.Template | nodes.Output | nodes.TemplateData | nodes.Name | nodes.Const | nodes.Getattr | nodes.Getitem
    | nodes.If | nodes.CondExpr | nodes.Compare | nodes.Operand | nodes.And | nodes.Or | nodes.Not | nodes.Test
    | nodes.Add | nodes.Sub | nodes.Div | nodes.FloorDiv | nodes.Neg | nodes.Pos | nodes.Concat
)  # fmt: skip
_PLAIN_METHODS = {"items", "keys", "values", "strip", "lower", "upper", "title", "capitalize"}
_PLAIN_FILTERS = {
    *("abs", "capitalize", "count", "d", "default", "e", "escape", "first", "float", "int"),
    *("last", "length", "lower", "safe", "string", "title", "trim", "upper"),
}
_GROWING_FILTERS = {"join", "replace"}


@dataclass(slots=True)
class _Level:
    """What a template has within so and so many loops."""

    nodes: int = 0
    literals: int = 0  # characters


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled plain template, and what its cost depends on."""

    template: Template
    levels: tuple[_Level, ...]  # outside of loops, within one, within two …
    constants: int  # characters in its expressions
    growth: int  # the factor by which filters may lengthen a text

    def fits(self, size: int) -> bool:
        """Tell whether it may be rendered in place, given values of `size` characters of JSON, or that many items."""
        longest = self.growth * (size + self.constants)
        steps = sum(level.nodes * size**depth for depth, level in enumerate(self.levels))
        literals = sum(level.literals * size**depth for depth, level in enumerate(self.levels))
        return steps <= MAX_INLINE_STEPS and steps * longest + literals <= MAX_OUTPUT


class _NotPlain(Exception):
    """The template needs the helper."""


@lru_cache(maxsize=512)
def plan(source: str, escape_html: bool) -> Plan | None:
    """Return how to render a template in place, or None if it must not be. Raises TemplateSyntaxError."""
    if len(source) > MAX_INLINE_SOURCE or _code_length(source) > MAX_INLINE_CODE:
        return None
    made = environment(escape_html)
    try:
        tree = made.parse(source)
        levels = [_Level()]
        constants, growth = 0, 1
        for node, depth in _walk(tree, 0):
            if depth == len(levels):
                levels.append(_Level())
            levels[depth].nodes += 1
            levels[depth].literals += len(node.data) if isinstance(node, nodes.TemplateData) else 0
            constants += len(str(node.value)) if isinstance(node, nodes.Const) else 0
            growth *= _growth(node)
        return Plan(made.from_string(source), tuple(levels), constants, growth)
    except (_NotPlain, RecursionError):
        return None


def _code_length(source: str) -> int:
    return sum(len(_CLOSING.split(piece, maxsplit=1)[0]) for piece in _OPENING.split(source)[1:])


def _walk(node: nodes.Node, depth: int) -> Iterator[tuple[nodes.Node, int]]:
    """Yield the nodes below with the number of loops around them. Raises _NotPlain."""
    if not _is_plain(node):
        raise _NotPlain
    yield node, depth
    inner = depth + isinstance(node, nodes.For)
    for child in node.iter_child_nodes():
        yield from _walk(child, inner)


def _is_plain(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Filter):
        return node.name in _PLAIN_FILTERS or node.name in _GROWING_FILTERS
    if isinstance(node, nodes.Call):
        method = node.node.attr if isinstance(node.node, nodes.Getattr) else None
        return method in _PLAIN_METHODS and not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
    if isinstance(node, nodes.For):
        return not node.recursive
    if isinstance(node, nodes.Tuple):
        return node.ctx == "store"  # `for key, value in …`
    return isinstance(node, _PLAIN)


def _growth(node: nodes.Node) -> int:
    """Return by what factor a filter may lengthen a text. Raises _NotPlain if only the values could tell."""
    if not isinstance(node, nodes.Filter) or node.name not in _GROWING_FILTERS:
        return 1
    if not all(isinstance(argument, nodes.Const) for argument in node.args) or node.kwargs:
        raise _NotPlain
    return 1 + max((len(str(argument.value)) for argument in node.args if isinstance(argument, nodes.Const)), default=0)


def render(source: str, values: dict[str, Any], escape_html: bool) -> str:
    """Return the text of any template; to be called in a helper process. Raises whatever the template raises."""
    pieces: list[str] = []
    length = 0
    for piece in environment(escape_html).from_string(source).generate(values):
        length += len(piece)
        if length > MAX_OUTPUT:
            raise ValueError(f"its text has more than {MAX_OUTPUT:,} characters")
        pieces.append(piece)
    return sound("".join(pieces))


def sound(text: str) -> str:
    """Return the text if it is Unicode; "\\ud800" in a template makes half a character, which no JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("its text has half of a \\u pair without the other half") from None
    return text
