"""A run that ended says how: what it failed for, what never ran and why; and it is not tried for ever."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

from backend.execution.deaths import MAX_DEATHS, MAX_SILENT_DEATHS
from backend.execution.executor import Worker
from backend.execution.scheduler import rescue
from backend.store import queue
from tests.execution.engine import Engine, assert_gap_free, calls, gates


async def reasons(engine: Engine, *links: str, **nodes) -> dict[str, str]:
    """Why nodes of a graph never ran, by node."""
    graph = await engine.add(*links, **nodes)
    async with engine.worker():
        run, history = await engine.run(graph)
    assert run.status in ("COMPLETED", "FAILED")
    return {each["node_id"]: each["reason"] for each in history.never_ran}


async def test_a_failed_run_says_which_node_why_and_with_which_input(engine: Engine):
    fail = {"block_id": "fail", "metadata": {"customized_name": "Fetch"}, "input_default": {"a_#_to": "Ada"}}
    graph = await engine.add("x.result -> f.b", x="in", f=fail)
    async with engine.worker():
        run, history = await engine.run(graph, x=[1, 2])
    assert (run.status, run.error) == ("FAILED", "Fetch (f) failed: cannot be done")
    assert history.failure == {
        "node_id": "f",
        "node_run": 2,
        "node": "Fetch (f)",
        "error": "cannot be done",
        "inputs": {"name": "f", "a": '{"to":"Ada"}', "b": "[1,2]"},
    }


async def test_the_first_failure_that_leads_nowhere_is_told_and_not_one_that_is_handled(engine: Engine):
    graph = await engine.add("h.error -> f.a", h="fail", f="fail")
    async with engine.worker():
        _, history = await engine.run(graph)
    assert history.failure
    assert (history.failure["node_id"], history.failure["inputs"]["a"]) == ("f", "cannot be done")


async def test_the_input_that_a_failed_run_shows_is_short(engine: Engine):
    graph = await engine.add("x.result -> f.a", x="in", f="fail")
    async with engine.worker():
        _, history = await engine.run(graph, x="v" * 100_000)
    assert history.failure
    assert history.failure["inputs"]["a"] == "v" * 200 + "… (100000 characters)"


async def test_a_failed_run_shows_no_secret_wherever_it_went(engine: Engine):
    secret = {"block_id": "in", "input_default": {"secret": True}}
    graph = await engine.add("key.result -> f.a_#_auth", key=secret, f="fail")
    async with engine.worker():
        _, history = await engine.run(graph, key="hunter2")
    assert history.failure
    assert history.failure["inputs"]["a"] == '{"auth":"(secret)"}'


async def test_a_failed_run_shows_no_value_of_a_secret_pin(engine: Engine):
    graph = await engine.add("x.result -> v.password", x="in", v="vault")
    async with engine.worker():
        _, history = await engine.run(graph, x="hunter2")
    assert history.failure
    assert history.failure["inputs"] == {"name": "v", "password": "(secret)"}


async def test_the_error_of_a_failed_run_shows_no_secret(engine: Engine):
    secret = {"block_id": "in", "input_default": {"secret": True}}
    graph = await engine.add("key.result -> o.a", key=secret, o="odd")
    async with engine.worker():
        run, _ = await engine.run(graph, key="hunter2")
    assert run.error == "OddBlock (o) failed: KeyError: '(secret)'"


async def test_a_node_whose_source_failed_or_never_ran_says_so(engine: Engine):
    links = ("f.result -> p.b", "q.out -> p.a", "p.out -> y.value")
    told = await reasons(engine, *links, f="fail", q="pass", p="pair", y="out")
    assert told == {
        "p": "waits for the pin `b`: its only source, FailBlock (f), failed",
        "y": "waits for the pin `value`: its only source, PairBlock (p), never ran",
    }


async def test_a_node_whose_source_never_put_that_out_says_so(engine: Engine):
    told = await reasons(engine, "q.result -> p.a", "q.error -> p.b", "q.out_#_no -> r.a", q="pass", p="pair", r="pass")
    assert told == {
        "p": "waits for the pin `a`: its only source, PassBlock (q), never put out `result`;"
        " the pin `b`: its only source, PassBlock (q), did not fail",
        "r": "waits for the pin `a`: its only source, PassBlock (q), put out `out`,"
        " but never with anything at `out_#_no`",
    }


async def test_a_node_with_many_sources_tells_some_and_how_many_more(engine: Engine):
    sources = [f"q{n}" for n in range(5)]
    told = await reasons(engine, *(f"{q}.result -> p.a" for q in sources), p="pass", **dict.fromkeys(sources, "pass"))
    assert told["p"] == (
        "waits for the pin `a`: none of its sources gave a value: PassBlock (q0), never put out `result`;"
        " PassBlock (q1), never put out `result`; PassBlock (q2), never put out `result`; 2 more"
    )


async def test_outputs_that_came_before_a_failure_are_kept(engine: Engine):
    graph = await engine.add("x.result -> y.value", "f.out -> y.value", x="in", f="fail", y="out")
    async with engine.worker():
        run, history = await engine.run(graph, x=1)
    assert (run.status, sorted(map(str, history.outputs["y"]))) == ("FAILED", ["1", "before"])


async def die_over(engine: Engine, run_id: UUID, type: str, node_id: str) -> None:
    """Let an executor take up the run and die as soon as this happens to this node."""
    seen = len(await engine.events(run_id))
    worker = Worker(engine.pool, engine.settings)
    await worker.join()
    dying = asyncio.create_task(worker.work(engine.settings.database_url, asyncio.Event()))
    await engine.until(
        run_id, lambda event: event.number > seen and event.type == type and event.data["node_id"] == node_id
    )
    dying.cancel()
    await asyncio.wait([dying])
    await engine.pool.execute("DELETE FROM executors")
    await rescue(engine.pool)


async def test_a_run_that_kills_three_executors_in_a_row_fails_and_names_the_node(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    await die_over(engine, run_id, "node.completed", "y")
    for _ in range(MAX_DEATHS - 1):
        await die_over(engine, run_id, "node.started", "g")
    async with engine.worker():
        run, history = await engine.end_of(run_id)
    assert (run.status, run.error) == (
        "FAILED",
        "3 executors in a row died over this run, the last while it worked on GateBlock (g): it is not tried again",
    )
    assert history.outputs == {"y": ["before 1"]}
    assert calls.count("g") == MAX_DEATHS
    assert_gap_free(await engine.events(run_id))


async def test_executors_that_die_before_they_wrote_anything_of_a_run_count_less(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    gates["g"].set()
    for _ in range(MAX_DEATHS):
        await queue.claim(engine.pool, UUID(int=1), 1)
        await rescue(engine.pool)
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", MAX_DEATHS + 1)


async def test_a_run_whose_executors_die_again_and_again_before_they_wrote_anything_fails(engine: Engine, gated: UUID):
    run_id = await engine.queue(gated, x=1)
    for _ in range(MAX_SILENT_DEATHS):
        await queue.claim(engine.pool, UUID(int=1), 1)
        await rescue(engine.pool)
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert run.error == "10 executors in a row died over this run, before any node had begun: it is not tried again"


async def test_a_run_that_finishes_a_node_between_the_deaths_of_its_executors_goes_on(engine: Engine):
    names = [f"g{n}" for n in range(5)]
    links = [f"{a}.out -> {b}.a" for a, b in pairwise(names)]
    graph = await engine.add(*links, **dict.fromkeys(names, "gate"))
    for name in names:
        gates[name] = asyncio.Event()
    run_id = await engine.queue(graph)
    for name in names[:-1]:
        gates[name].set()
        await die_over(engine, run_id, "node.completed", name)
    gates[names[-1]].set()
    async with engine.worker():
        run, _ = await engine.end_of(run_id)
    assert (run.status, run.attempt) == ("COMPLETED", 5)
