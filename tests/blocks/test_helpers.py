"""Helper processes keep to their limits, do not get in each other's way, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.blocks.block import BlockError
from backend.blocks.helpers import Helpers, TaskFailed

Children = Callable[[], set[int]]

ENDLESS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
ROOT = Path(__file__).parents[2]


async def fill(helpers: Helpers, source: str) -> str:
    return await helpers.do("template", source=source, values={}, escape_html=False)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells that a process begins or ends
            await asyncio.sleep(0.01)


async def test_an_endless_task_does_not_hold_up_the_others(responsive: Any) -> None:
    helpers = Helpers(seconds=2.0)
    endless = [asyncio.create_task(fill(helpers, ENDLESS)) for _ in range(2)]

    async with responsive():
        assert await fill(helpers, "{{ 2 * 3 }}") == "6"
        assert not any(task.done() for task in endless)
        assert all(isinstance(end, BlockError) for end in await asyncio.gather(*endless, return_exceptions=True))

    await helpers.close()


async def test_tasks_beyond_the_number_of_helpers_wait_for_their_turn(helpers: Helpers, children: Children) -> None:
    before = children()
    texts = await asyncio.gather(*[fill(helpers, f"{{{{ {number} * 1 }}}}") for number in range(20)])

    assert texts == [str(number) for number in range(20)]
    assert 1 <= len(children() - before) <= 4


async def test_a_cancelled_task_leaves_no_process_behind(helpers: Helpers, children: Children) -> None:
    before = children()
    task = asyncio.create_task(fill(helpers, ENDLESS))
    await until(lambda: children() != before)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert children() == before


async def test_a_helper_that_was_killed_is_replaced(helpers: Helpers, children: Children) -> None:
    before = children()
    await fill(helpers, "{{ 2 * 3 }}")
    (helper,) = children() - before

    os.kill(helper, signal.SIGKILL)
    await until(lambda: children() == before)

    assert await fill(helpers, "{{ 2 * 3 }}") == "6"


async def test_a_task_is_done_though_the_helper_died_a_moment_ago(helpers: Helpers, children: Children) -> None:
    before = children()
    await fill(helpers, "{{ 2 * 3 }}")
    (helper,) = children() - before

    os.kill(helper, signal.SIGKILL)  # of which the event loop has heard nothing yet

    assert await fill(helpers, "{{ 2 * 3 }}") == "6"


async def test_an_error_within_the_limits_says_where(helpers: Helpers) -> None:
    with pytest.raises(TaskFailed, match="undefined") as raised:
        await fill(helpers, "\n{{ a.b }}")
    assert raised.value.line is None

    with pytest.raises(TaskFailed) as raised:
        await fill(helpers, "\n{% if %}")
    assert raised.value.line == 2


async def test_a_helper_knows_no_secret_and_ends_when_closed(
    helpers: Helpers, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    before = children()
    await fill(helpers, "{{ 2 * 3 }}")
    (helper,) = children() - before

    assert b"secret" not in Path(f"/proc/{helper}/environ").read_bytes()  # noqa: ASYNC240
    await helpers.close()
    assert children() == before


STARTS_AND_IS_KILLED = """
import asyncio, os, pathlib, signal, sys
from backend.blocks.helpers import Helpers

def end():
    helper = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    if not helper:
        asyncio.get_running_loop().call_later(0.1, end)
        return
    print(helper, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    helpers = Helpers(seconds=3.0)
    asyncio.get_running_loop().call_later(1.0, end)
    await helpers.do("template", source=sys.argv[1], values={}, escape_html=False)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("template", ["{{ 2 * 3 }}", ENDLESS], ids=["idle", "busy"])
async def test_a_helper_does_not_outlive_the_one_who_started_it(template: str) -> None:
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTS_AND_IS_KILLED, template, cwd=ROOT, stdout=subprocess.PIPE
    )
    output, _ = await starter.communicate()

    assert starter.returncode == -signal.SIGKILL
    (helper,) = output.split()
    await until(lambda: has_ended(int(helper)))


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"  # ended, though nobody has asked how
