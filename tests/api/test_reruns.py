"""Runs run again: from some nodes on, with other inputs, or only what failed; what need not is not executed again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import aiohttp
import pytest

from backend.blocks.block import Context, Pins
from backend.store import events, retention
from backend.store.connection import Pool, Queryable
from backend.store.events import Event
from tests.execution.engine import TestBlock, calls, steered_blocks

__all__ = ["steered_blocks"]

NOBODY = "01890000-0000-7000-8000-000000000000"
IN = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
OUT = "363ae599-353e-4804-937e-b2ee3cef3da4"


# What DivideBlock divides by instead of a number, if that is mended.
mended: dict[str, int] = {}


class DivideBlock(TestBlock):
    """Divides 10 by what it gets, which is not always possible."""

    id = "divide"

    async def run(self, input: TestBlock.Input, context: Context) -> Pins:
        calls.append(input.name)
        yield "out", 10 / (input.a or mended.get("zero", 0))


def node(id: str, block_id: str, **defaults: Any) -> dict[str, Any]:
    return {"id": id, "block_id": block_id, "input_default": {"name": id, **defaults}}


def link(text: str) -> dict[str, str]:
    (source, source_name), (sink, sink_name) = (end.split(".") for end in text.split(" -> "))
    return {"source_id": source, "source_name": source_name, "sink_id": sink, "sink_name": sink_name}


class Agent:
    """A graph that is stored and run over HTTP; its nodes by the names they have here."""

    def __init__(self, api: aiohttp.ClientSession) -> None:
        self.api = api
        self.ids: dict[str, str] = {}

    async def store(self, nodes: list[dict[str, Any]], *links: str) -> Agent:
        document = {"name": "Agent", "nodes": nodes, "links": [link(each) for each in links]}
        async with self.api.post("/api/v2/graphs", json=document) as answer:
            graph = await answer.json()
            assert graph["problems"] == []
        self.graph_id = graph["id"]
        self.ids = {each["input_default"]["name"]: each["id"] for each in graph["nodes"]}
        return self

    async def run(self, **inputs: Any) -> dict[str, Any]:
        body = {"inputs": inputs}
        async with self.api.post(f"/api/v2/graphs/{self.graph_id}/runs?wait=20", json=body) as answer:
            assert answer.status == 200
            return await answer.json()

    async def again(self, run: dict[str, Any], how: str, **body: Any) -> dict[str, Any]:
        """The new run at its end."""
        async with self.api.post(f"/api/v2/runs/{run['id']}/{how}", json=body) as answer:
            assert answer.status == 202, await answer.text()
            new = await answer.json()
            assert answer.headers["Location"] == f"/api/v2/runs/{new['id']}"
        assert new["rerun_of"] == run["id"]
        async with self.api.get(f"/api/v2/runs/{new['id']}/events") as stream:
            await stream.read()
        async with self.api.get(f"/api/v2/runs/{new['id']}") as answer:
            return await answer.json()

    def kept(self, run: dict[str, Any]) -> set[str]:
        names = {id: name for name, id in self.ids.items()}
        return {names[each["node_id"]] for each in run["node_executions"] if each["kept"]}


@pytest.fixture
async def two_inputs(api: aiohttp.ClientSession) -> Agent:
    """x -> left, y -> right, both -> pair -> z; and left -> each item of it -> w."""
    nodes = [
        node("x", IN), node("y", IN), node("left", "pass"), node("right", "pass"), node("pair", "pair"), node("z", OUT),
        node("each", "each"), node("w", OUT),
    ]  # fmt: skip
    return await Agent(api).store(
        nodes, "x.result -> left.a", "y.result -> right.a", "left.out -> pair.a", "right.out -> pair.b",
        "pair.out -> z.value", "left.out -> each.a", "each.out -> w.value",
    )  # fmt: skip


@pytest.mark.usefixtures("executor")
async def test_from_a_node_on_only_what_follows_from_it_runs_again(two_inputs: Agent):
    run = await two_inputs.run(x=[1, 2], y="b")
    assert sorted(calls) == ["each", "left", "right"]
    calls.clear()

    again = await two_inputs.again(run, "rerun", from_nodes=[two_inputs.ids["right"]])

    assert calls == ["right"]
    assert (again["status"], again["outputs"]) == ("COMPLETED", run["outputs"])
    assert two_inputs.kept(again) == {"x", "y", "left", "each", "w"}
    assert again["node_exec_count"] == 3


@pytest.mark.usefixtures("executor")
async def test_without_nodes_everything_runs_again(two_inputs: Agent):
    run = await two_inputs.run(x=[1], y="b")
    calls.clear()

    again = await two_inputs.again(run, "rerun")

    assert (sorted(calls), again["outputs"]) == (["each", "left", "right"], run["outputs"])
    assert two_inputs.kept(again) == set()


@pytest.mark.usefixtures("executor")
async def test_a_fork_runs_what_follows_from_the_inputs_that_changed(two_inputs: Agent):
    run = await two_inputs.run(x=[1, 2], y="b")
    calls.clear()

    again = await two_inputs.again(run, "fork", inputs={"y": "c", "x": [1, 2]})

    assert calls == ["right"]
    assert again["outputs"] == {"z": [[[1, 2], "c"]], "w": [1, 2]}
    assert again["inputs"] == {"x": [1, 2], "y": "c"}


@pytest.mark.usefixtures("executor")
async def test_an_input_that_is_equal_in_python_alone_is_different(two_inputs: Agent):
    run = await two_inputs.run(x=[1], y=[{"a": 1}])
    again = await two_inputs.again(run, "fork", inputs={"y": [{"a": True}]})
    assert again["outputs"]["z"][0][1][0]["a"] is True


@pytest.mark.usefixtures("executor")
async def test_a_run_that_is_deleted_while_it_is_read_is_not_run_again(two_inputs: Agent, database: Pool, monkeypatch):
    run, read = await two_inputs.run(x=[1], y=2), events.read

    async def deleted_before(connection: Queryable, run_id: UUID) -> list[Event]:
        await retention.delete_surplus(database, 0)
        return await read(connection, run_id)

    monkeypatch.setattr(events, "read", deleted_before)
    async with two_inputs.api.post(f"/api/v2/runs/{run['id']}/fork", json={"inputs": {"y": 3}}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "unknown_run")
    assert await database.fetchval("SELECT count(*) FROM runs") == 0


@pytest.mark.usefixtures("executor")
async def test_a_rerun_can_be_run_again_and_keeps_what_it_kept(two_inputs: Agent):
    run = await two_inputs.again(await two_inputs.run(x=[1], y="b"), "fork", inputs={"y": "c"})
    calls.clear()

    again = await two_inputs.again(run, "fork", inputs={"x": [2]})

    assert sorted(calls) == ["each", "left"]
    assert again["outputs"] == {"z": [[[2], "c"]], "w": [2]}


@pytest.mark.usefixtures("executor")
async def test_a_retry_tries_only_the_executions_that_failed(api: aiohttp.ClientSession, monkeypatch):
    """Of five items one cannot be divided by; after the mend the others are not divided again."""
    nodes = [node("x", IN), node("each", "each"), node("divide", "divide"), node("z", OUT)]
    agent = await Agent(api).store(nodes, "x.result -> each.a", "each.out -> divide.a", "divide.out -> z.value")
    run = await agent.run(x=[1, 2, 0, 4, 5])
    assert (run["status"], len(run["outputs"]["z"])) == ("FAILED", 4)
    calls.clear()
    monkeypatch.setitem(mended, "zero", 10)

    again = await agent.again(run, "retry")

    assert calls == ["divide"]
    assert (again["status"], sorted(again["outputs"]["z"])) == ("COMPLETED", [1, 2, 2.5, 5, 10])
    assert again["failure"] is None


@pytest.mark.usefixtures("executor")
async def test_a_run_that_was_stopped_goes_on_where_it_was(api: aiohttp.ClientSession, two_inputs: Agent):
    nodes = [node("x", IN), node("first", "pass"), node("ask", "8b2a7b3c-6e9d-4a5f-8c1b-2e3f4a5b6c7d"), node("z", OUT)]
    agent = await Agent(api).store(
        nodes, "x.result -> first.a", "first.out -> ask.data", "ask.approved_data -> z.value"
    )  # fmt: skip
    async with api.post(f"/api/v2/graphs/{agent.graph_id}/runs", json={"inputs": {"x": 1}}) as answer:
        run = await answer.json()
    await waiting_for_a_review(api, run["id"])
    async with api.post(f"/api/v2/runs/{run['id']}/stop") as answer:
        assert (await answer.json())["status"] == "TERMINATED"
    calls.clear()

    async with api.post(f"/api/v2/runs/{run['id']}/retry") as answer:
        again = await answer.json()
    review = await waiting_for_a_review(api, again["id"])
    decisions = {"reviews": [{"node_exec_id": review, "approved": True}]}
    async with api.post(f"/api/v2/runs/{again['id']}/reviews", json=decisions) as answer:
        assert answer.status == 202
    async with api.get(f"/api/v2/runs/{again['id']}/events") as stream:
        await stream.read()
    async with api.get(f"/api/v2/runs/{again['id']}") as answer:
        end = await answer.json()
    assert (calls, end["status"], end["outputs"]) == ([], "COMPLETED", {"z": [1]})


async def waiting_for_a_review(api: aiohttp.ClientSession, run_id: str) -> str:
    """Wait until the run is in REVIEW; the id of what is asked."""
    async with api.get(f"/api/v2/runs/{run_id}/events") as stream:
        async for line in stream.content:
            if b'"status":"REVIEW"' in line:
                break
    async with api.get(f"/api/v2/runs/reviews?run_id={run_id}") as answer:
        (review,) = (await answer.json())["items"]
        return review["node_exec_id"]


@pytest.mark.usefixtures("executor")
@pytest.mark.parametrize(
    ("how", "body", "status", "code"),
    [
        ("retry", None, 409, "nothing_failed"),
        ("rerun", {"from_nodes": ["nobody"]}, 422, "unknown_node"),
        ("fork", {"inputs": {"nothing": 1}}, 422, "invalid_inputs"),
    ],
)
async def test_what_cannot_be_run_again_is_refused(two_inputs: Agent, how: str, body: Any, status: int, code: str):
    run = await two_inputs.run(x=[1], y="b")
    async with two_inputs.api.post(f"/api/v2/runs/{run['id']}/{how}", json=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (status, code)


@pytest.mark.parametrize(("how", "body"), [("retry", None), ("rerun", None), ("fork", {})])
async def test_a_run_that_has_not_ended_or_is_not_there_is_not_run_again(two_inputs: Agent, how: str, body: Any):
    api = two_inputs.api
    async with api.post(f"/api/v2/graphs/{two_inputs.graph_id}/runs", json={"inputs": {"x": [1], "y": 2}}) as answer:
        run = await answer.json()
    async with api.post(f"/api/v2/runs/{run['id']}/{how}", json=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (409, "run_not_ended")
    async with api.post(f"/api/v2/runs/{NOBODY}/{how}", json=body) as answer:
        assert (answer.status, (await answer.json())["code"]) == (404, "unknown_run")
