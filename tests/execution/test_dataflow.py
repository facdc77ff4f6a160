"""How values pair up into node runs: the rule that authors of agents rely on."""

import time

from backend.execution.dataflow import Dataflow
from backend.graphs.catalogue import BlockKind, BlockSpec
from backend.graphs.graph import Graph
from backend.graphs.topology import topology

BLOCKS = {
    kind: BlockSpec(kind, kind, BlockKind.STANDARD, kind == "static", {"properties": {}}, {"properties": {}})
    for kind in ("plain", "static")
}


def dataflow(*links: str, blocks: dict[str, str] | None = None) -> Dataflow:
    """A graph from links like `a.out -> b.in`; nodes are plain unless `blocks` says otherwise."""
    ends = [[end.split(".") for end in link.split(" -> ")] for link in links]
    names = dict.fromkeys(name for link in ends for name, _ in link)
    graph = Graph.model_validate(
        {
            "nodes": [{"id": name, "block_id": (blocks or {}).get(name, "plain")} for name in names],
            "links": [
                {"source_id": a, "source_name": out, "sink_id": b, "sink_name": into} for (a, out), (b, into) in ends
            ],
        }
    )
    return Dataflow(topology(graph, BLOCKS))


def values(node_runs: list) -> list[dict]:
    return [node_run.values for node_run in node_runs]


def test_nodes_without_links_start_and_the_others_wait():
    flow = dataflow("a.out -> b.in")
    assert [(inputs.node_id, inputs.number) for inputs in flow.start()] == [("a", 1)]


def test_a_node_runs_when_every_linked_pin_has_a_value():
    flow = dataflow("a.out -> c.x", "b.out -> c.y")
    assert flow.deliver("a", "out", 1) == []
    assert values(flow.deliver("b", "out", 2)) == [{"x": 1, "y": 2}]


def test_values_pair_up_in_the_order_they_came():
    flow = dataflow("a.out -> c.x", "b.out -> c.y")
    for value in (1, 2, 3):
        flow.deliver("a", "out", value)
    paired = [values(flow.deliver("b", "out", letter)) for letter in "pqr"]
    assert paired == [[{"x": 1, "y": "p"}], [{"x": 2, "y": "q"}], [{"x": 3, "y": "r"}]]


def test_a_static_value_is_used_again_by_every_later_node_run():
    flow = dataflow("s.out -> c.x", "b.out -> c.y", blocks={"s": "static"})
    flow.deliver("s", "out", "kept")
    assert values(flow.deliver("b", "out", 1)) == [{"x": "kept", "y": 1}]
    assert values(flow.deliver("b", "out", 2)) == [{"x": "kept", "y": 2}]


def test_a_static_value_that_comes_late_completes_everything_that_waits_for_it():
    flow = dataflow("s.out -> c.x", "b.out -> c.y", blocks={"s": "static"})
    for value in (1, 2, 3):
        assert flow.deliver("b", "out", value) == []
    assert values(flow.deliver("s", "out", "late")) == [{"x": "late", "y": n} for n in (1, 2, 3)]


def test_a_new_static_value_replaces_the_old_one():
    flow = dataflow("s.out -> c.x", "b.out -> c.y", blocks={"s": "static"})
    flow.deliver("s", "out", "old")
    flow.deliver("b", "out", 1)
    flow.deliver("s", "out", "new")
    assert values(flow.deliver("b", "out", 2)) == [{"x": "new", "y": 2}]


def test_a_node_run_that_waits_for_more_takes_the_newest_static_value():
    flow = dataflow("s.out -> c.x", "a.out -> c.y", "b.out -> c.z", blocks={"s": "static"})
    flow.deliver("s", "out", "old")
    flow.deliver("a", "out", 1)
    assert values(flow.deliver("b", "out", 1)) == [{"x": "old", "y": 1, "z": 1}]
    flow.deliver("a", "out", 2)
    flow.deliver("s", "out", "new")
    assert values(flow.deliver("b", "out", 2)) == [{"x": "new", "y": 2, "z": 2}]
    assert flow.incomplete() == []


def test_a_value_that_is_not_static_completes_no_other_node_run_though_its_pin_has_a_static_link_too():
    flow = dataflow("s.out -> c.x", "n.out -> c.x", "b.out -> c.y", blocks={"s": "static"})
    for value in (1, 2):
        flow.deliver("b", "out", value)
    assert values(flow.deliver("n", "out", "once")) == [{"x": "once", "y": 1}]
    assert values(flow.deliver("s", "out", "kept")) == [{"x": "kept", "y": 2}]


def test_ten_thousand_static_values_that_wait_are_not_searched_for_each_that_comes():
    flow = dataflow("s.out -> c.x", "b.out -> c.y", blocks={"s": "static"})
    flow.deliver("s", "out", "first")
    flow.deliver("b", "out", "first")
    began = time.process_time()
    for value in range(10_000):
        flow.deliver("s", "out", value)
    assert time.process_time() - began < 2
    assert len(flow.incomplete()) == 10_000


def test_two_links_into_one_pin_are_alternatives():
    flow = dataflow("a.out -> c.x", "b.out -> c.x")
    assert values(flow.deliver("a", "out", 1)) == [{"x": 1}]
    assert values(flow.deliver("b", "out", 2)) == [{"x": 2}]


def test_a_cycle_makes_a_new_node_run_for_every_value():
    flow = dataflow("start.out -> loop.x", "loop.out -> loop.x")
    numbers = [flow.deliver("start", "out", 0)[0].number]
    for turn in range(3):
        numbers += [inputs.number for inputs in flow.deliver("loop", "out", turn)]
    assert numbers == [1, 2, 3, 4]


def test_a_path_into_a_value_carries_the_part_and_a_path_that_leads_nowhere_delivers_nothing():
    flow = dataflow("a.out_#_name -> b.x")
    assert values(flow.deliver("a", "out", {"name": "Ada"})) == [{"x": "Ada"}]
    assert flow.deliver("a", "out", {"other": 1}) == []


def test_null_is_a_value():
    flow = dataflow("a.out -> b.x")
    assert values(flow.deliver("a", "out", None)) == [{"x": None}]


def test_what_still_waits_is_told_with_the_pins_it_lacks():
    flow = dataflow("a.out -> c.x", "b.out -> c.y")
    flow.deliver("a", "out", 1)
    [(inputs, lacking)] = flow.incomplete()
    assert (inputs.node_id, inputs.values, lacking) == ("c", {"x": 1}, ["y"])


def test_ten_thousand_waiting_values_are_paired_without_searching_them_all():
    flow = dataflow("a.out -> c.x", "b.out -> c.y")
    for value in range(10_000):
        flow.deliver("a", "out", value)
    assert [flow.deliver("b", "out", n)[0].values["x"] for n in range(10_000)] == list(range(10_000))
