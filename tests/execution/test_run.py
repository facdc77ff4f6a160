"""What a run does: the execution rule, errors, outputs, stopping."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from backend.execution import run as run_module
from backend.store import control, events
from tests.execution.engine import Engine, calls, gates


async def test_an_input_travels_to_the_output(engine: Engine):
    graph = await engine.add("x.result -> p.a", "p.out -> y.value", x="in", p="pass", y="out")
    async with engine.worker():
        run, history = await engine.run(graph, x=5)
    assert (run.status, run.error, history.outputs) == ("COMPLETED", None, {"y": [5]})
    assert [node_run.status for node_run in history.node_runs.values()] == ["COMPLETED"] * 3
    assert run.started_at is not None
    assert run.ended_at is not None


async def test_events_are_numbered_from_one_without_gaps_and_end_with_the_run(engine: Engine):
    graph = await engine.add("x.result -> e.a", "e.out -> y.value", x="in", e="each", y="out")
    async with engine.worker():
        run, _ = await engine.run(graph, x=[1, 2, 3])
    events = await engine.events(run.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [events[0].type, events[1].type, events[-1].type] == ["run.queued", "run.started", "run.completed"]
    assert {event.type for event in events[2:-1]} == {"node.started", "node.output", "node.completed", "run.output"}


async def test_every_value_a_node_puts_out_runs_the_next_node_in_order(engine: Engine):
    graph = await engine.add("x.result -> e.a", "e.out -> y.value", x="in", e="each", y="out")
    async with engine.worker():
        _, history = await engine.run(graph, x=list(range(50)))
    assert history.outputs == {"y": list(range(50))}


async def test_a_static_input_is_paired_with_every_item(engine: Engine):
    graph = await engine.add(
        "items.result -> e.a", "e.out -> p.a", "name.result -> p.b", "p.out -> y.value",
        items="in", name="in", e="each", p="pair", y="out",
    )  # fmt: skip
    async with engine.worker():
        _, history = await engine.run(graph, items=[1, 2, 3], name="n")
    assert sorted(history.outputs["y"]) == [[1, "n"], [2, "n"], [3, "n"]]


async def test_a_cycle_runs_until_it_is_left(engine: Engine):
    graph = await engine.add(
        "x.result -> c.a", "c.out -> c.a", "c.result -> y.value", x="in", c="countdown", y="out"
    )  # fmt: skip
    async with engine.worker():
        run, history = await engine.run(graph, x=20)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": [-1]})
    assert len(history.node_runs) == 1 + 21 + 1


async def test_a_dynamic_pin_fills_a_part_of_an_input(engine: Engine):
    graph = await engine.add(
        "x.result -> p.a_#_city", "p.out_#_city -> y.value",
        x="in", p={"block_id": "pass", "input_default": {"a": {"country": "UK"}}}, y="out",
    )  # fmt: skip
    async with engine.worker():
        _, history = await engine.run(graph, x="London")
    assert history.outputs == {"y": ["London"]}
    assert history.node_runs[2].inputs["a"] == {"country": "UK", "city": "London"}


async def test_a_dynamic_pin_among_the_defaults_counts_though_nothing_is_linked(engine: Engine):
    defaults = {"a_#_city": "London", "a_#_rest_$_1": "UK"}
    graph = await engine.add("p.out -> y.value", p={"block_id": "pass", "input_default": defaults}, y="out")
    async with engine.worker():
        _, history = await engine.run(graph)
    assert history.outputs == {"y": [{"city": "London", "rest": [None, "UK"]}]}


async def test_a_value_that_comes_to_an_input_node_along_a_link_passes_it(engine: Engine):
    graph = await engine.add("p.out -> x.value", "x.result -> y.value", p={"block_id": "pass", "input_default": {"a": 2}}, x="in", y="out")  # fmt: skip  # noqa: E501
    async with engine.worker():
        _, history = await engine.run(graph, x=1)
    assert sorted(history.outputs["y"]) == [1, 2]


async def test_a_failed_node_whose_error_leads_nowhere_fails_the_run_and_is_named(engine: Engine):
    graph = await engine.add("f.out -> y.value", f="fail", y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, run.error) == ("FAILED", "FailBlock (f) failed: cannot be done")
    assert history.outputs == {"y": ["before"]}
    assert (history.node_runs[1].status, history.node_runs[1].error) == ("FAILED", "cannot be done")


async def test_an_error_that_is_linked_is_handled(engine: Engine):
    graph = await engine.add("f.error -> y.value", f="fail", y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": ["cannot be done"]})


async def test_a_block_that_puts_out_an_error_has_failed(engine: Engine):
    graph = await engine.add("f.out -> y.value", f={"block_id": "fail", "input_default": {"b": "yield"}}, y="out")
    async with engine.worker():
        run, history = await engine.run(graph)
    assert (run.status, history.outputs["y"]) == ("FAILED", ["before"])
    assert history.node_runs[1].error == "its own words"


async def test_a_bug_in_a_block_fails_its_node_only(engine: Engine):
    bug = {"block_id": "fail", "input_default": {"b": "raise"}}
    graph = await engine.add("f.error -> y.value", "x.result -> p.a", "p.out -> z.value", f=bug, y="out", x="in", p="pass", z="out")  # fmt: skip  # noqa: E501
    async with engine.worker():
        run, history = await engine.run(graph, x=1)
    assert run.status == "COMPLETED"
    assert history.outputs == {"y": ["ZeroDivisionError: a bug\\0"], "z": [1]}


async def test_what_is_not_json_fails_the_node_that_put_it_out(engine: Engine):
    for odd in ("object", "surrogate"):
        graph = await engine.add(o={"block_id": "odd", "input_default": {"a": odd}})
        async with engine.worker():
            run, _ = await engine.run(graph)
        assert run.status == "FAILED"
        assert "OddBlock (o) failed: the value of pin `out` cannot be written as JSON" in run.error


async def test_a_value_above_the_limit_fails_the_node_and_says_the_limit(engine: Engine, monkeypatch):
    monkeypatch.setattr(run_module, "MAX_VALUE_BYTES", 1024 * 1024)
    graph = await engine.add("x.result -> p.a", x="in", p="pass")
    async with engine.worker():
        run, _ = await engine.run(graph, x="v" * 1024 * 1024)
    assert run.error.endswith("the value of pin `result` has 1048578 bytes of JSON; 1 MiB is the limit")


async def test_text_with_nul_and_any_unicode_survives(engine: Engine):
    graph = await engine.add("x.result -> y.value", x="in", y="out")
    async with engine.worker():
        _, history = await engine.run(graph, x="nul \0 emoji 🤖 \u2028")
    assert history.outputs == {"y": ["nul \0 emoji 🤖 \u2028"]}


async def test_a_node_that_takes_too_long_fails(engine: Engine, monkeypatch):
    monkeypatch.setattr(run_module, "NODE_TIME_LIMIT", 0.05)
    gates["g"] = asyncio.Event()
    graph = await engine.add(g="gate")
    async with engine.worker():
        run, _ = await engine.run(graph)
    assert run.error == "GateBlock (g) failed: took longer than 0.05 s"


async def test_what_still_waits_at_the_end_is_told(engine: Engine):
    graph = await engine.add("x.result -> p.a", "f.out_#_no -> p.b", x="in", f="pass", p="pair")
    async with engine.worker():
        run, _ = await engine.run(graph, x=1)
    last = (await engine.events(run.id))[-1]
    assert last.data["waiting"] == [{"node_id": "p", "node_run": 3, "pins": ["b"]}]


async def test_a_running_run_is_stopped_and_says_what_it_was_doing(engine: Engine):
    gates["g"] = asyncio.Event()
    graph = await engine.add("g.out -> y.value", g="gate", y="out")
    async with engine.worker():
        run_id = await engine.queue(graph)
        await engine.until(run_id, lambda event: event.type == "run.output")
        await control.request_stop(engine.pool, run_id)
        run, history = await engine.end_of(run_id)
    assert (run.status, history.outputs) == ("TERMINATED", {"y": ["before None"]})
    assert {node.node_id: node.status for node in history.node_runs.values()} == {"g": "TERMINATED", "y": "COMPLETED"}


async def test_a_run_of_a_block_that_is_not_here_fails_with_its_name(engine: Engine):
    graph = await engine.add(n="f3a8f7e1-4b1d-4e5f-9f2a-7c3d5a2e6b4c")
    async with engine.worker():
        run, _ = await engine.run(graph)
    assert run.status == "FAILED"
    assert "TranscribeYoutubeVideoBlock" in run.error


async def test_ten_thousand_items_do_not_outgrow_the_journal(engine: Engine):
    graph = await engine.add("x.result -> e.a", "e.out -> p.a", x="in", e="each", p="pass")
    async with engine.worker():
        run, history = await engine.run(graph, x=list(range(10_000)))
    assert run.status == "COMPLETED"
    assert len(calls) == 10_001
    assert len(history.node_runs) == 10_002


async def test_an_executor_has_written_once_before_its_first_run_waits_for_it(engine: Engine, monkeypatch):
    written = asyncio.Event()
    append = events.append

    async def watched(connection: Any, entries: Any) -> set[UUID]:
        owned = await append(connection, entries)
        written.set()
        return owned

    monkeypatch.setattr(events, "append", watched)
    async with engine.worker(), asyncio.timeout(20):
        await written.wait()


async def test_a_run_that_was_paused_before_it_began_tells_that_it_begins(engine: Engine):
    run_id = await engine.queue(await engine.add(x="in"), x=1)
    await control.pause(engine.pool, run_id)
    await control.resume(engine.pool, run_id)
    async with engine.worker():
        assert (await engine.end_of(run_id))[0].status == "COMPLETED"
    types = [event.type for event in await engine.events(run_id)]
    assert types[:4] == ["run.queued", "run.paused", "run.started", "node.started"]


@pytest.mark.parametrize(("value", "name"), [(5, "5"), ([1], "[1]"), ("given", "given")])
async def test_whatever_comes_to_the_name_of_an_output_is_its_name_as_text(engine: Engine, value: object, name: str):
    graph = await engine.add("x.result -> y.name", x="in", y={"block_id": "out", "input_default": {"value": 1}})
    async with engine.worker():
        _, history = await engine.run(graph, x=value)
    assert history.outputs == {name: [1]}
