"""Random small agents of blocks whose every run is decided by their input, and the recipe of each such block."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Pins, pin
from backend.blocks.schema import schema_of
from backend.graphs.catalogue import BlockKind, BlockSpec
from tests.execution.reference_interpreter import convert

# Node executions with a greater number put nothing out: so every run ends, cycles or not.
STEPS = 40

# The pins that every block here has: type, and default.
PINS: dict[str, tuple[str, Any]] = {
    "a": ("any", None),
    "n": ("number", 0),
    "t": ("text", ""),
    "items": ("list", []),
    "d": ("object", {}),
    "value": ("any", None),
}

Values = dict[str, Any]
Outputs = list[tuple[str, Any]]


def digest(values: Values) -> Any:
    """What a block has seen, kept short in cycles."""
    seen = {name: values[name] for name in ("a", "n", "t", "items", "d")}
    return seen if len(json.dumps(seen)) < 200 else len(json.dumps(seen))


def _echo(values: Values) -> Outputs:
    return [("out", digest(values))]


def _each(values: Values) -> Outputs:
    return [("out", item) for item in values["items"][:3]] + [("done", len(values["items"]))]


def _fail(values: Values) -> Outputs:
    return [("out", values["a"]), ("error", "it failed"), ("out", "never")]


def _odd(values: Values) -> Outputs:
    return [("error", "odd")] if values["n"] % 2 else [("out", values["n"] // 2)]


def _countdown(values: Values) -> Outputs:
    return [("out", values["n"] - 1)] if values["n"] > 0 else [("done", values["t"])]


def _nested(values: Values) -> Outputs:
    return [("out", {"k": values["a"], "l": [values["n"], {"k": values["t"]}]})]


def _silent(values: Values) -> Outputs:
    return []


def _input(values: Values) -> Outputs:
    return [] if values["value"] is None else [("out", values["value"])]


def _output(values: Values) -> Outputs:
    return [("out", values["value"])]


@dataclass(frozen=True)
class Recipe:
    script: Callable[[Values], Outputs]
    kind: BlockKind = BlockKind.STANDARD
    static: bool = False


RECIPES = {
    "echo": Recipe(_echo),
    "each": Recipe(_each),
    "fail": Recipe(_fail),
    "odd": Recipe(_odd),
    "countdown": Recipe(_countdown),
    "nested": Recipe(_nested),
    "silent": Recipe(_silent),
    "store": Recipe(_echo, static=True),
    "input": Recipe(_input, BlockKind.INPUT, static=True),
    "output": Recipe(_output, BlockKind.OUTPUT, static=True),
    "note": Recipe(_echo, BlockKind.NOTE),
}
KINDS = {name: (recipe.kind.value, recipe.static) for name, recipe in RECIPES.items()}


def outputs_of(block_id: str, number: int, data: Values) -> Outputs:
    """What the node execution of this number puts out, given its input; after an `error` it is over."""
    if number > STEPS:
        return []
    given = {name: data.get(name) for name in PINS}
    values = {
        name: default if given[name] is None else convert(given[name], wanted)
        for name, (wanted, default) in PINS.items()
    }
    outputs = RECIPES[block_id].script(values)
    end = next((index for index, (name, _) in enumerate(outputs) if name == "error"), len(outputs))
    return outputs[: end + 1]


class ScriptBlock(Block):
    """Does what its recipe says."""

    categories = (Category.BASIC,)
    examples = ()

    class Input(BlockInput):
        name: str = pin("Name of this node", default="")
        a: Any = pin("Any value", default=None)
        n: int = pin("A number", default=0)
        t: str = pin("A text", default="")
        items: list[Any] = pin("A list", factory=list)
        d: dict[str, Any] = pin("A dictionary", factory=dict)
        value: Any = pin("Any value", default=None)

    class Output(BlockOutput):
        out: Any = pin("Any value")
        done: Any = pin("Any value")

    def __init__(self, id: str, recipe: Recipe) -> None:
        self.id, self.kind, self.static_output = id, recipe.kind, recipe.static  # pyright: ignore[reportAttributeAccessIssue]
        self._script = recipe.script

    async def run(self, input: Input, context: Context) -> Pins:
        for output in self._script(dict(input)) if context.node_run <= STEPS else []:
            yield output


BLOCKS = {name: ScriptBlock(name, recipe) for name, recipe in RECIPES.items()}
SPECS = {
    name: BlockSpec(name, block.name, block.kind, block.static_output, schema_of(block.Input), schema_of(block.Output))
    for name, block in BLOCKS.items()
}

NODE_IDS = "pqrstuvw"
SINKS = [*"antantantd", "items", "value", "a_#_k", "a_#_k_$_1", "a_$_0", "d_#_k", "d_#_l_$_1_#_k", "d_@_k", "items_$_0", "items_$_2"]  # fmt: skip  # noqa: E501
SOURCES = ["out", "out", "out", "done", "error", "out_#_k", "out_#_l_$_0", "out_#_l_$_1_#_k", "out_@_d_#_k", "out_$_0"]

SMALL = [0, 1, 2, 3, None, True, "", "x", "5", "[1, 2]", '{"k": 2}', [1, 2], ["x"], [], {"k": 1}]
small = st.sampled_from(SMALL)
DEFAULTS: list[Values] = [
    {"a": 1},
    {"n": 3, "items": [7]},
    {"n": 4, "items": [1, 2], "value": 5},
    {"items": ["x", {"k": 3}, None], "a": {"k": 1}, "value": 1},
    {"items": '["y", "z"]', "n": "6", "value": "v"},
    {"a_#_k": 1, "d_#_l_$_1_#_k": "deep", "items_$_1": 2, "value": {"k": 2}},
    {"d": {"l": [0]}, "d_#_l_$_2": 7, "n": 2, "value": [3]},
    {"items": "x", "t": 5, "d": [8], "n": None},
    {"a_#_k_$_1": "part", "a_#_k": ["whole"], "n": 1},
]
DOES_NOT_FIT = {"a": "no list", "a_$_1": 1}
NODES = [*RECIPES, "echo", "echo", "each", "each", "each", "odd", "countdown", "nested", "store"]

# Of three agents one has nodes that are disabled, and of three runs one is masked.
DISABLED = 0.15
MASKED = 0.4

# Seeds instead of one draw for each choice: those are no thorough mixture, and cost more than the run.
_randoms = st.integers(0, 2**32).map(Random)


def random_graph(random: Random) -> Values:
    """An agent file of up to eight nodes: most hang on an earlier one; further links go anywhere, also back."""
    count = random.choice([1, 2, 4, 5, 6, 7, 8, 8])
    nodes = [
        (random.choice(NODES), DOES_NOT_FIT if random.random() < 0.02 else random.choice(DEFAULTS))
        for _ in range(count)
    ]
    links: list[tuple[int, str, int, str, bool]] = []
    for place in range(1, count):
        if random.random() < 0.7:
            pin = "value" if nodes[place][0] == "output" else random.choice(["a", "n", "items", "d_#_k"])
            links.append((random.randrange(place), "out", place, pin, random.random() < 0.2))
    for _ in range(random.randint(0, 4)):
        a, b = random.randrange(count), random.randrange(count)
        if b == 0 and random.random() < 0.8:
            continue  # the first node is mostly left free to start
        fed = [into for _, _, sink, into, _ in links if sink == b]
        pin = random.choice(fed if fed and random.random() < 0.6 else SINKS)
        links.append((a, random.choice(SOURCES), b, pin, random.random() < 0.3))
    random.shuffle(links)
    return some_disabled(random, graph(nodes, links))


def random_crossroads(random: Random) -> Values:
    """An agent where much comes together: three sources, some static, into up to three pins of a node and a note."""
    nodes: list[tuple[str, Values]] = [(random.choice(["echo", "store"]), {}) for _ in "pqr"]
    links: list[tuple[int, str, int, str, bool]] = []
    for _ in range(random.randint(2, 6)):
        out, sink = random.choice(["out", "out", "out_#_k"]), random.choice([3, 3, 3, 4])
        links.append((random.randrange(3), out, sink, random.choice("ant"), random.random() < 0.4))
    return some_disabled(random, graph([*nodes, ("echo", {}), ("note", {})], links))


def some_disabled(random: Random, document: Values) -> Values:
    sometimes = DISABLED if random.random() < 1 / 3 else 0
    for node in document["nodes"]:
        if random.random() < sometimes:
            node["settings"] = {"disabled": True}
    return document


def with_masks(random: Random, document: Values) -> tuple[Values, dict[str, Values]]:
    """The agent; and by node, values for some of the pins that are linked, and for a few others."""
    masks: dict[str, Values] = {}
    sometimes = MASKED if random.random() < 1 / 3 else 0
    linked = [(link["sink_id"], link["sink_name"]) for link in document["links"]]
    others = [(node["id"], random.choice(SINKS)) for node in document["nodes"]]
    for node_id, name in linked + others:
        if random.random() < sometimes:
            masks.setdefault(node_id, {})[name] = random.choice(SMALL)
    return document, masks


# Each with the masks of a run.
graphs = _randoms.map(lambda random: with_masks(random, random_graph(random)))
crossroads = _randoms.map(lambda random: with_masks(random, random_crossroads(random)))
deaths = st.lists(st.integers(2, 40), max_size=2)


def graph(nodes: list[tuple[str, Values]], links: list[tuple[int, str, int, str, bool]]) -> Values:
    """An agent file; nodes are called p, q, …, and links name them by their place."""
    return {
        "nodes": [
            {"id": id, "block_id": block_id, "input_default": {**defaults, "name": id}}
            for id, (block_id, defaults) in zip(NODE_IDS, nodes, strict=False)
        ],
        "links": [
            {
                "id": str(number),
                "source_id": NODE_IDS[a],
                "source_name": out,
                "sink_id": NODE_IDS[b],
                "sink_name": into,
                "is_static": static,
            }
            for number, (a, out, b, into, static) in enumerate(links)
        ],
    }


# Values for some of the inputs; an input is called as its node.
inputs = st.fixed_dictionaries({}, optional=dict.fromkeys(NODE_IDS, small))
