"""Runs generators that never wait, as most blocks are, without a task, which would cost more than what they do."""

from __future__ import annotations

import dis
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from functools import cache
from types import AsyncGeneratorType, CodeType
from typing import TypeVar

T = TypeVar("T")


def never_waits(outputs: AsyncGenerator[T, None]) -> bool:
    """Whether there is no `await`, `async for` or `async with` in the body of a generator."""
    return isinstance(outputs, AsyncGeneratorType) and _has_no_await(outputs.ag_code)


@cache
def _has_no_await(code: CodeType) -> bool:
    return all(instruction.opname != "SEND" for instruction in dis.get_instructions(code))


def at_once(outputs: AsyncGenerator[T, None]) -> Iterator[T]:
    """What a generator yields that never waits. It may be left halfway, and gone on with in a task."""
    while True:
        try:
            outputs.__anext__().__await__().send(None)
        except StopIteration as step:
            yield step.value
        except StopAsyncIteration:
            return


def close_at_once(outputs: AsyncGenerator[T, None]) -> None:
    """Have a generator clean up that never waits."""
    with suppress(StopIteration):
        outputs.aclose().__await__().send(None)
