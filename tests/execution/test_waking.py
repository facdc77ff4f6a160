"""A run that was woken looks, whoever dies before it has."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from backend.execution import waking
from backend.execution.run import Run
from backend.execution.waking import Waker
from backend.store import events, queue, runs
from backend.store.events import Entry
from backend.store.waking import wake
from tests.execution.agents import OUT, TIMER, node, parked_after
from tests.execution.engine import Engine


class FakeRun:
    """Notes what it is told; one that is over cannot stay."""

    def __init__(self, told: list[str], *, over: bool) -> None:
        self._told = told
        self._over = over

    def stay(self) -> bool:
        self._told.append("stay")
        return not self._over

    def wake(self) -> None:
        self._told.append("wake")


async def woken_run(engine: Engine) -> tuple[UUID, UUID]:
    """A run that was woken while an executor has it, and that executor."""
    run_id, executor = await engine.queue(await engine.add(x="in")), uuid4()
    await queue.claim(engine.pool, executor, 1)
    await wake(engine.pool, run_id)
    return run_id, executor


async def test_a_run_that_is_woken_while_it_is_being_parked_is_queued_though_its_executor_dies(engine: Engine):
    run_id, executor = await woken_run(engine)
    await Waker(engine.pool, executor, {run_id: FakeRun([], over=True)}).carry()
    await events.append(engine.pool, [Entry(run_id, 1, [], "RUNNING")])
    assert (await runs.get(engine.pool, run_id)).status == "QUEUED"


@pytest.mark.parametrize("error", [None, ConnectionResetError])
async def test_a_run_that_is_woken_stays_until_that_is_noted_and_then_looks(engine: Engine, monkeypatch, error: Any):
    run_id, executor = await woken_run(engine)
    told: list[str] = []

    async def take(*_: Any) -> None:
        told.append("take")
        if error:
            raise error

    monkeypatch.setattr(waking, "take_waking", take)
    waker = Waker(engine.pool, executor, {run_id: FakeRun(told, over=False)})
    try:
        await waker.carry()
    except ConnectionResetError:
        assert error
    assert told == ["stay", "take", "wake"]


async def test_a_run_that_stays_is_not_parked_before_it_has_looked(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    begin, begun = Run.begin, []

    def begin_and_stay(run: Run, history: Any) -> None:
        begun.append(run)
        run.stay()
        begin(run, history)

    monkeypatch.setattr(Run, "begin", begin_and_stay)
    async with engine.worker():
        run_id = await engine.queue(await engine.add("t.output_message -> y.value", t=node(TIMER, hours=1), y=OUT))
        await engine.until(run_id, lambda event: event.type == "node.waiting")
        await engine.run(await engine.add("x.result -> y.value", x="in", y="out"), x=1)
        assert "run.waiting" not in [event.type for event in await engine.events(run_id)]
        begun[0].wake()
        await engine.until(run_id, parked_after("node.waiting"))
