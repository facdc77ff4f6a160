"""The agents that run while processes die: one of each way to hang together, and what must come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.execution.agents import CALL, IN, OUT, PERSIST, RETRIEVE, TIMER, node
from tests.execution.engine import as_link
from tests.journeys.stub import STEP, WEB_REQUEST

CALCULATOR = "b1ab9b19-67a6-406d-abf5-2dba76d00c79"
CONDITION = "715696a0-e1da-45c8-b209-c2fa9c3b0be6"

Values = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """An agent, the inputs of its `n`th run, and what becomes of a run with such inputs; `calls` are runs below it."""

    name: str
    graph: Values
    inputs: Callable[[int], Values]
    outputs: Callable[[Values], dict[str, list[Any]]]
    status: str = "COMPLETED"
    calls: int = 0


def kinds(web_service: str) -> list[Kind]:
    return [
        Kind("chain", _chain(), lambda n: {"x": n}, lambda given: {"y": [given["x"] + 5]}),
        Kind("fan-out", _fan_out(), _items, lambda given: {"y": [2 * item for item in given["items"]]}),
        Kind("cycle", _cycle(), lambda n: {"x": 3 + n % 6}, _countdown),
        Kind("handled", _divided(handled=True), lambda n: {"x": n}, lambda given: {"why": [_of_zero(given["x"])]}),
        Kind("failing", _divided(handled=False), lambda n: {"x": n}, lambda given: {}, "FAILED"),
        Kind("calling", _calling(), _items, lambda given: {"y": [item + 5 for item in given["items"]]}, calls=4),
        Kind("timer", _timer(2, 2), lambda n: {"x": n}, lambda given: {"y": [given["x"]] * 2}),
        Kind("parked", _timer(7, 1), lambda n: {"x": n}, lambda given: {"y": [given["x"]]}),
        Kind("keeping", _keeping(), lambda n: {"x": f"key {n}"}, lambda given: {"y": [given["x"]]}),
        Kind("web", _web(web_service), _items, lambda given: {"y": [{"got": item} for item in given["items"]]}),
    ]


def _items(n: int) -> Values:
    return {"items": [10 * n + place for place in range(4)]}


def _countdown(given: Values) -> dict[str, list[Any]]:
    return {"step": list(range(given["x"] - 1, 0, -1)), "done": [0]}


def _of_zero(x: int) -> str:
    return f"{x} cannot be divided by 0."


def _graph(*links: str, **nodes: Values) -> Values:
    return {"nodes": [{"id": id, **each} for id, each in nodes.items()], "links": [as_link(link) for link in links]}


def _in(name: str) -> Values:
    return node(IN, name=name)


def _out(name: str) -> Values:
    return node(OUT, name=name)


def _plus(number: int) -> Values:
    return node(CALCULATOR, operation="Add", b=number)


def _chain() -> Values:
    nodes = {f"n{place}": _plus(1) for place in range(5)}
    links = [f"n{place}.result -> n{place + 1}.a" for place in range(4)]
    return _graph("x.result -> n0.a", *links, "n4.result -> y.value", x=_in("x"), y=_out("y"), **nodes)


def _fan_out() -> Values:
    return _graph(
        "items.result -> each.items", "each.item -> double.a", "double.result -> y.value",
        items=_in("items"), each=node(STEP), double=node(CALCULATOR, operation="Multiply", b=2), y=_out("y"),
    )  # fmt: skip


def _cycle() -> Values:
    return _graph(
        "x.result -> first.a", "first.result -> less.a", "less.result -> more.value1", "more.yes_output -> less.a",
        "more.yes_output -> step.value", "more.no_output -> done.value",
        x=_in("x"), first=_plus(0), less=_plus(-1), more=node(CONDITION, operator=">", value2=0),
        step=_out("step"), done=_out("done"),
    )  # fmt: skip


def _divided(*, handled: bool) -> Values:
    nodes = {"x": _in("x"), "divide": node(CALCULATOR, operation="Divide", b=0), "after": _plus(1)}
    links = ["x.result -> divide.a", "divide.result -> after.a"]
    if handled:
        return _graph(*links, "divide.error -> why.value", **nodes, why=_out("why"))
    return _graph(*links, **nodes)


def _calling() -> Values:
    schemas = {
        f"{side}_schema": {"type": "object", "properties": {pin: {}}, "required": [pin]}
        for side, pin in (("input", "x"), ("output", "y"))
    }
    below = _chain() | schemas | {"id": "below", "name": "below", "version": 1}
    call = node(CALL, graph_id="below", graph_version=1, inputs={}, **schemas)
    graph = _graph(
        "items.result -> each.items", "each.item -> call.x", "call.y -> y.value",
        items=_in("items"), each=node(STEP), call=call, y=_out("y"),
    )  # fmt: skip
    return graph | {"sub_graphs": [below]}


def _timer(seconds: int, times: int) -> Values:
    timer = node(TIMER, seconds=seconds, repeat=times)
    return _graph(
        "x.result -> timer.input_message", "timer.output_message -> y.value", x=_in("x"), timer=timer, y=_out("y")
    )


def _keeping() -> Values:
    return _graph(
        "x.result -> keep.key", "x.result -> keep.value", "keep.value -> recall.key", "recall.value -> y.value",
        x=_in("x"), keep=node(PERSIST), recall=node(RETRIEVE), y=_out("y"),
    )  # fmt: skip


def _web(address: str) -> Values:
    return _graph(
        "items.result -> each.items", "each.item -> ask.body_#_item", "ask.response -> y.value",
        items=_in("items"), each=node(STEP), ask=node(WEB_REQUEST, url=address, method="POST"), y=_out("y"),
    )  # fmt: skip
