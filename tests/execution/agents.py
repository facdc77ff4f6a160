"""Agents that call agents, ask people and wait: made of the real blocks, as their users make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from backend.store import graphs
from backend.store.events import Event
from tests.execution.engine import Engine

IN = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
OUT = "363ae599-353e-4804-937e-b2ee3cef3da4"
CALL = "e189baac-8c20-45a1-94a7-55177ea42565"
REVIEW = "8b2a7b3c-6e9d-4a5f-8c1b-2e3f4a5b6c7d"
TIMER = "d67a9c52-5e4e-11e2-bcfd-0800200c9a71"
PERSIST = "1d055e55-a2b9-4547-8311-907d05b0304d"
RETRIEVE = "d8710fc9-6e29-481e-a7d5-165eb16f8471"


def node(block_id: str, **input_default: Any) -> dict[str, Any]:
    return {"block_id": block_id, "input_default": input_default}


def call(graph_id: UUID, **inputs: Any) -> dict[str, Any]:
    return node(CALL, graph_id=str(graph_id), graph_version=1, inputs=inputs)


async def calling_itself(engine: Engine) -> UUID:
    """An agent that calls itself without end."""
    id = uuid4()
    document = {"id": str(id), "nodes": [{"id": "c", **call(id)}], "links": []}
    await graphs.insert(engine.pool, id, 1, "graph", document)
    return id


async def gated_child(engine: Engine, gate: str = "g") -> UUID:
    """An agent that puts `before X` and `after X` out at `y`, with a gate between."""
    return await engine.add(f"x.result -> {gate}.a", f"{gate}.out -> y.value", **{"x": IN, gate: "gate", "y": OUT})


async def calling(engine: Engine, child: UUID, **more: Any) -> UUID:
    """An agent that gives its `x` to the child, passes on what comes out of its `y`, and puts that out at `z`."""
    return await engine.add(
        "x.result -> c.x", "c.y -> p.a", "p.out -> z.value", x=IN, c=call(child), p="pass", z=OUT, **more
    )  # fmt: skip


def parked_after(type: str) -> Callable[[Event], bool]:
    """For `Engine.until`: a run waits in the database, some time after an event of that type."""
    seen: set[str] = set()

    def happened(event: Event) -> bool:
        seen.add(event.type)
        return event.type == "run.waiting" and type in seen

    return happened
