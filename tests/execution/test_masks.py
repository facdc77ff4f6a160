"""Values that are given to the nodes of one run: they are on top of everything, and nothing has to come for them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from backend.execution.history import History
from backend.execution.scheduler import rescue
from backend.store.runs import StoredRun
from tests.execution.agents import CALL, IN, OUT, calling, node
from tests.execution.engine import Engine, calls, gates
from tests.execution.test_recovery import die_at_the_gate

Masks = dict[str, dict[str, Any]]


async def run_masked(engine: Engine, graph: UUID, masks: Masks, **inputs: Any) -> tuple[StoredRun, History]:
    async with engine.worker():
        return await engine.end_of(await engine.queue_with(graph, inputs, input_masks=masks))


async def passing(engine: Engine) -> UUID:
    return await engine.add("x.result -> p.a", "p.out -> y.value", x="in", p="pass", y="out")


async def test_a_mask_replaces_what_comes_along_a_link(engine: Engine):
    _, history = await run_masked(engine, await passing(engine), {"p": {"a": "mask"}}, x=1)
    assert (history.outputs, history.node_runs[2].inputs["a"]) == ({"y": ["mask"]}, "mask")


async def test_a_mask_replaces_the_default_of_a_node_and_the_input_of_a_run(engine: Engine):
    masks = {"x": {"value": "mask"}, "p": {"b": "mask"}}
    pair = {"block_id": "pair", "input_default": {"b": "default"}}
    graph = await engine.add("x.result -> p.a", "p.out -> y.value", x="in", p=pair, y="out")
    _, history = await run_masked(engine, graph, masks, x=1)
    assert history.outputs == {"y": [["mask", "mask"]]}


async def test_a_masked_pin_waits_for_nothing(engine: Engine):
    graph = await engine.add(
        "x.result -> p.a", "f.result -> p.b", "p.out -> y.value", x="in", f="pass", p="pair", y="out"
    )  # fmt: skip
    run, history = await run_masked(engine, graph, {"p": {"b": None}}, x=1)
    assert (run.status, history.outputs, history.waiting) == ("COMPLETED", {"y": [[1, None]]}, [])


async def test_a_node_with_all_its_pins_masked_still_runs_only_for_what_comes(engine: Engine):
    graph = await engine.add("f.result -> p.a", "p.out -> y.value", f="pass", p="pass", y="out")
    _, history = await run_masked(engine, graph, {"p": {"a": 1}})
    told = {each["node_id"]: each["reason"] for each in history.never_ran}
    assert told["p"] == "waits for the pin `a`: its only source, PassBlock (f), never put out `result`"


async def test_of_a_node_that_never_ran_the_pins_are_told_that_were_not_masked(engine: Engine):
    graph = await engine.add("f.result -> p.a", "f.result -> p.b", f="pass", p="pair")
    _, history = await run_masked(engine, graph, {"p": {"a": 1}})
    [told] = history.never_ran
    assert told["reason"].startswith("waits for the pin `b`: ")
    assert "`a`" not in told["reason"]


async def test_a_mask_of_a_part_goes_into_what_comes(engine: Engine):
    _, history = await run_masked(engine, await passing(engine), {"p": {"a_#_city": "Bern"}}, x={"country": "CH"})
    assert history.outputs == {"y": [{"country": "CH", "city": "Bern"}]}


async def test_a_mask_that_does_not_fit_fails_its_node(engine: Engine):
    run, _ = await run_masked(engine, await passing(engine), {"p": {"a_$_0": 1}}, x="text")
    assert run.error.startswith("PassBlock (p) failed: the pin `a_$_0` needs a list")


async def test_a_mask_for_a_node_that_is_not_there_changes_nothing(engine: Engine):
    run, history = await run_masked(engine, await passing(engine), {"gone": {"a": 1}}, x=1)
    assert (run.status, history.outputs) == ("COMPLETED", {"y": [1]})


async def test_masks_hold_in_the_executor_that_takes_a_run_up(engine: Engine, gated: UUID):
    run_id = await engine.queue_with(gated, {"x": 1}, input_masks={"g": {"a": "mask"}, "last": {"b": 5}})
    await die_at_the_gate(engine, run_id)
    await rescue(engine.pool)
    gates["g"].set()
    async with engine.worker():
        _, history = await engine.end_of(run_id)
    assert history.outputs == {"y": ["before mask", "after mask"]}
    assert calls.count("first") == 1


async def test_the_masks_of_a_node_that_runs_an_agent_are_for_its_inputs(engine: Engine):
    child = await engine.add("x.result -> y.value", x=IN, y=OUT)
    _, history = await run_masked(engine, await calling(engine, child), {"c": {"x": "mask"}}, x=1)
    assert history.outputs == {"z": ["mask"]}


async def test_a_node_that_runs_an_agent_gives_masks_to_its_nodes(engine: Engine):
    child = await engine.add("x.result -> p.a", "p.out -> y.value", x=IN, p="pass", y=OUT)
    calls_it = node(CALL, graph_id=str(child), graph_version=1, nodes_input_masks={"p": {"a": "mask"}})
    graph = await engine.add("x.result -> c.x", "c.y -> z.value", x=IN, c=calls_it, z=OUT)
    async with engine.worker():
        _, history = await engine.run(graph, x=1)
    assert history.outputs == {"z": ["mask"]}


@pytest.mark.parametrize("where", ["key", "f"])
async def test_a_failed_run_shows_no_secret_that_came_by_a_mask(engine: Engine, where: str):
    key = {"block_id": "in", "input_default": {"secret": True}}
    graph = await engine.add("key.result -> f.a", key=key, f={"block_id": "vault"})
    masks = {"key": {"value": "hunter2"}} if where == "key" else {"f": {"password": "hunter2"}}
    _, history = await run_masked(engine, graph, masks, key="open")
    assert history.failure
    assert "hunter2" not in str(history.failure)
    assert "(secret)" in history.failure["inputs"].values()
