"""Templates of strangers end in time, within memory and length, and hold nothing else up."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from backend.blocks import _sandbox
from backend.blocks.block import BlockError
from backend.blocks.helpers import Helpers
from backend.blocks.resources import close_resources
from backend.blocks.template import render, render_apart

LONG = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)

# Each asks for gigabytes, most of them from inside one C call that no check in Python could end.
HUNGRY = {
    "multiplied text": "{{ 'a' * 10**10 }}",
    "multiplied list": "{{ [0] * 10**10 }}",
    "doubled": "{% set x = namespace(y='ab') %}{% for i in range(40) %}{% set x.y = x.y ~ x.y %}{% endfor %}{{ x.y }}",
    "widened": "{{ '%9999999999d' % 1 }}",
    "centred": "{{ 'a'|center(10**10) }}",
    "nested lists": "{% set a = [1,1,1,1,1,1,1,1] %}{% set b = [a,a,a,a,a,a,a,a] %}{% set c = [b,b,b,b,b,b,b,b] %}"
    "{% set d = [c,c,c,c,c,c,c,c] %}{% set e = [d,d,d,d,d,d,d,d] %}{% set f = [e,e,e,e,e,e,e,e] %}"
    "{% set g = [f,f,f,f,f,f,f,f] %}{% set h = [g,g,g,g,g,g,g,g] %}{% set i = [h,h,h,h,h,h,h,h] %}{{ i }}",
    "batched": "{{ [1]|batch(10**9, 0)|list }}",
    "formatted": "{{ '{:9999999999}'.format(1) }}",
}


@pytest_asyncio.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    await close_resources()


@pytest.mark.parametrize("template", HUNGRY.values(), ids=HUNGRY)
async def test_a_template_that_asks_for_gigabytes_is_refused(template: str, helpers: Helpers, responsive: Any) -> None:
    assert _sandbox.plan(template, False) is None

    async with responsive():
        with pytest.raises(BlockError, match=r"memory|more than|too large|out of range|Range too big|int too large"):
            await render_apart(helpers, template, "{}", False)

    assert await render_apart(helpers, "{{ 2 * 3 }}", "{}", False) == "6"


@pytest.mark.parametrize("template", [LONG, "{{ 7 ** (7 ** 9) }}"], ids=["loops", "power"])
async def test_a_template_that_does_not_end_is_ended(template: str, helpers: Helpers, responsive: Any) -> None:
    begun = time.monotonic()

    async with responsive():
        with pytest.raises(BlockError, match="took more than 1 seconds: make it simpler"):
            await render_apart(helpers, template, "{}", False)

    assert 0.9 < time.monotonic() - begun < 5
    assert await render_apart(helpers, "{{ 2 * 3 }}", "{}", False) == "6"


async def test_memory_is_bounded_by_the_kernel(helpers: Helpers) -> None:
    with pytest.raises(BlockError, match="The template needs more memory than it may have: make it simpler"):
        await render_apart(helpers, "{{ 'a' * 10**9 }}", "{}", False)


async def test_text_without_end_is_cut_off_by_its_length(helpers: Helpers) -> None:
    with pytest.raises(BlockError, match=r"its text has more than 8,388,608 characters"):
        await render_apart(
            helpers, "{% for i in range(9999) %}{{ x }}{% endfor %}", '{"x": "' + "a" * 10_000 + '"}', False
        )


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ x.__init__.__globals__ }}",
    "{{ x|attr('__class__') }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ x.append(1) }}",
    "{{ lipsum.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(x) }}",
    "{{ x|tojson }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", ESCAPES)
async def test_a_template_reaches_nothing_but_its_values(template: str) -> None:
    with suppress(BlockError):
        assert await render(template, {"x": [1]}) == ""


async def test_values_are_looked_up_in_place_and_all_else_is_sent_away() -> None:
    plain = [
        "{{ a }} {{ a.b[0]|default('x')|upper }}{% if a and not b %}{{ b|join(', ') }}{% else %}-{% endif %}",
        "{% for k, v in a.items() %}{{ loop.index }}{{ k }}={{ v + 1 }}{% if not loop.last %}, {% endif %}{% endfor %}",
        "{{ a|replace('x', 'yy') ~ b }}",
    ]
    sent = [
        "{{ a * b }}",
        "{{ a % b }}",
        "{{ [a, a] }}",
        "{% set b = a %}",
        "{{ a|replace('x', b) }}",
        "{{ a|join(a) }}",
        "{{ range(9) }}",
        "{{ a.format(b) }}",
        "{% macro m() %}{% endmacro %}",
        "{% for x in a recursive %}{{ loop(x) }}{% endfor %}",
        "{{ " + "(" * 2_000 + "a" + ")" * 2_000 + " }}",
        " " * _sandbox.MAX_INLINE_SOURCE + "{{ a }}",
        "{{ a }}" * 2_000,
    ]
    assert all(_sandbox.plan(template, False) for template in plain)
    for template in sent:
        assert _sandbox.plan(template, False) is None, template


async def test_the_cost_of_a_template_is_known_before_it_runs(responsive: Any) -> None:
    nested = "{% for a in x %}{% for b in x %}{% for c in x %}{{ c }}{% endfor %}{% endfor %}{% endfor %}"
    plan = _sandbox.plan(nested, False)

    assert plan is not None
    assert plan.fits(10)
    assert not plan.fits(100)
    assert await render(nested, {"x": [1, 2]}) == "12121212"
    async with responsive():
        with pytest.raises(BlockError, match="more than"):
            await render(nested, {"x": ["a" * 1_000] * 300})


async def test_missing_values_are_empty_and_values_of_missing_ones_are_named() -> None:
    assert await render("[{{ nothing }}]", {}) == "[]"
    with pytest.raises(BlockError, match="The template failed: 'nothing' is undefined"):
        await render("{{ nothing.more }}", {})


async def test_html_is_escaped_only_on_request_in_place_and_by_helpers() -> None:
    for template in ("{{ a }}", "{% set b = a %}{{ b }}"):
        assert await render(template, {"a": "<&>"}) == "<&>"
        assert await render(template, {"a": "<&>"}, escape_html=True) == "&lt;&amp;&gt;"
    assert await render("{{ a|safe }}", {"a": "<b>"}, escape_html=True) == "<b>"


async def test_values_of_every_kind_reach_a_helper() -> None:
    values = {"text": "é\n\0", "big": 2**70, "deep": {"a": [None, True, 1.5]}, "odd name": 1}
    template = "{% set t = text %}{{ t }}|{{ big }}|{{ deep.a }}"
    assert await render(template, values) == f"é\n\0|{2**70}|[None, True, 1.5]"


@pytest.mark.parametrize("template", [r"{{ '\ud800' }}", r"{% set a = '\ud800' %}{{ a }}"])
async def test_half_a_character_does_not_get_out(template: str) -> None:
    with pytest.raises(BlockError, match=r"half of a \\u pair"):
        await render(template, {})


@pytest.mark.parametrize(
    "template", ["{% set a %}", "{{ 'x'|nofilter }}", "{{", "{% for %}", "{% endif %}", "{{ 1/0 }}"]
)
async def test_a_wrong_template_is_one_sentence(template: str) -> None:
    with pytest.raises(BlockError) as raised:
        await render(template, {})
    assert str(raised.value).startswith("The template failed: ")
    assert "\n" not in str(raised.value)


async def test_a_plain_template_is_as_fast_as_jinja() -> None:
    source, values = "Hello {{ name }}!", {"name": "Ann"}
    bare = _sandbox.environment(False).from_string(source)
    await render(source, values)

    async def ours() -> float:
        begun = time.perf_counter()
        for _ in range(500):
            await render(source, values)
        return (time.perf_counter() - begun) / 500

    def theirs() -> float:
        begun = time.perf_counter()
        for _ in range(500):
            bare.render(values)
        return (time.perf_counter() - begun) / 500

    assert min([await ours() for _ in range(10)]) - min(theirs() for _ in range(10)) < 60e-6
