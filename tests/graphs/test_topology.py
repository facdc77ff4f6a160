"""What the engine needs to know of a graph's links: who waits for what, who begins, what stays."""

from __future__ import annotations

from backend.graphs.graph import Link
from backend.graphs.topology import topology
from tests.graphs.graph_samples import ADD, CATALOGUE, FILL, INPUT, NOTE, STORE, graph, link, node, sum_agent


def ids(links: tuple[Link, ...]) -> list[str]:
    return [each.id for each in links]


def test_links_are_found_by_sink_and_by_source_pin():
    agent = graph(
        node("a", FILL),
        node("b", FILL),
        link("a.output_#_x", "b.values_#_1"),
        link("a.output", "b.format"),
        link("a.error", "b.values"),
    )
    found = topology(agent, CATALOGUE)

    assert ids(found.incoming["b"]) == ["a.output_#_x→b.values_#_1", "a.output→b.format", "a.error→b.values"]
    assert ids(found.outgoing["a", "output"]) == ["a.output_#_x→b.values_#_1", "a.output→b.format"]
    assert ids(found.outgoing["a", "error"]) == ["a.error→b.values"]
    assert "a" not in found.incoming
    assert ("b", "output") not in found.outgoing


def test_a_run_begins_with_unlinked_nodes_and_with_every_input_but_never_with_notes():
    agent = graph(
        node("free", ADD),
        node("in", INPUT),
        node("note", NOTE),
        node("gone", "unknown block"),
        link("free.result", "in.value"),
    )

    assert [each.id for each in topology(agent, CATALOGUE).starting] == ["free", "in", "gone"]


def test_a_link_into_a_note_leads_nowhere():
    agent = graph(node("a", FILL), node("note", NOTE), link("a.output", "note.text"))

    assert topology(agent, CATALOGUE).outgoing == {}


def test_a_cycle_without_entry_has_no_start():
    agent = graph(node("a", ADD), node("b", ADD), link("a.result", "b.a"), link("b.result", "a.a"))

    assert topology(agent, CATALOGUE).starting == ()


def test_links_out_of_static_blocks_are_static_whatever_the_file_says():
    agent = graph(
        node("store", STORE),
        node("add", ADD),
        link("store.output", "add.a", is_static=False),
        link("add.result", "add.b", is_static=True),
        link("add.result", "store.input", is_static=False),
    )
    found = topology(agent, CATALOGUE)

    assert [each.is_static for each in found.incoming["add"]] == [True, True]
    assert [each.is_static for each in found.incoming["store"]] == [False]
    assert not agent.links[0].is_static


def test_nodes_are_found_by_id():
    agent = sum_agent()

    assert topology(agent, CATALOGUE).nodes["sum"] is agent.nodes[1]
