"""The agents people made elsewhere come in as they are: read, described, judged, and written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from backend.blocks.registry import catalogue, known_names
from backend.graphs.exchange import export, read
from backend.graphs.graph import Graph
from backend.graphs.validation import Problem, problems
from tests.graphs.graph_samples import without_ids

FILES = [
    "ai-function.json",
    "async-bug-graph-2024.json",
    "calculator-agent.json",
    "discord-chatbot-with-history.json",
    "domain-name-finder.json",
    "linkedin-post-generator.json",
    "personal-newsletter.json",
    "send-slack-message.json",
    "testing-agent-invalid.json",
    "web-search.json",
    "win-back-email-writer.json",
]
# Its inputs have no type, which no version of these blocks wrote.
HANDMADE = "win-back-email-writer.json"

ReadFile = Callable[[str], bytes]


@pytest.fixture
def agent_file(shared_agents: Path) -> ReadFile:
    return lambda name: (shared_agents / name).read_bytes()


def problems_of(graph: Graph) -> list[Problem]:
    return problems(graph, catalogue(), known_names())


def walk(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield file
    for sub_graph in file.get("sub_graphs") or []:
        yield from walk(sub_graph)


@pytest.mark.parametrize("name", FILES)
def test_every_node_and_link_comes_in_whole(agent_file: ReadFile, name: str):
    document = agent_file(name)
    found, file = read(document), json.loads(document)

    for graph, written in zip(found.walk(), walk(file), strict=True):
        assert (graph.name, graph.description) == (written["name"], written["description"])
        assert [node.metadata for node in graph.nodes] == [node["metadata"] for node in written["nodes"]]
        assert [node.input_default.keys() for node in graph.nodes] == [
            node["input_default"].keys() - {"user_id"} for node in written["nodes"]
        ]
        assert [(link.source_name, link.sink_name, link.is_static) for link in graph.links] == [
            (link["source_name"], link["sink_name"], link["is_static"]) for link in written["links"]
        ]


@pytest.mark.parametrize("name", FILES)
def test_an_export_comes_in_again_as_the_same_graph(agent_file: ReadFile, name: str):
    found = read(agent_file(name))

    assert without_ids(read(orjson.dumps(export(found, catalogue())))) == without_ids(found)


@pytest.mark.parametrize("name", sorted({*FILES} - {HANDMADE}))
def test_the_derived_schemas_are_those_in_the_file(agent_file: ReadFile, name: str):
    document = agent_file(name)
    for graph, written in zip(walk(export(read(document), catalogue())), walk(json.loads(document)), strict=True):
        for part in ("input_schema", "output_schema"):
            assert graph[part] == written.get(part, graph[part])


@pytest.mark.parametrize("name", ["calculator-agent.json", "send-slack-message.json"])
def test_agents_whose_blocks_we_have_can_run(agent_file: ReadFile, name: str):
    assert problems_of(read(agent_file(name))) == []


def test_missing_values_of_the_invalid_agent_are_told(agent_file: ReadFile):
    found = problems_of(read(agent_file("testing-agent-invalid.json")))

    assert [(each.code, each.block_name, each.pin) for each in found] == [
        ("missing_input", "CalculatorBlock", "operation"),
        ("missing_input", "CalculatorBlock", "a"),
        ("missing_input", "CalculatorBlock", "b"),
    ]


def test_blocks_and_pins_of_another_time_are_told(agent_file: ReadFile):
    found = problems_of(read(agent_file("async-bug-graph-2024.json")))

    assert sum(each.code == "unknown_block" for each in found) == 4
    assert [(each.block_name, each.pin) for each in found if each.code == "unknown_pin"] == [
        ("FillTextTemplateBlock", "named_texts")
    ] * 4


def test_blocks_we_do_not_have_are_told_by_name(agent_file: ReadFile):
    found = problems_of(read(agent_file("discord-chatbot-with-history.json")))

    assert {each.block_name for each in found if each.code == "unknown_block"} >= {
        "ReadDiscordMessagesBlock",
        "SendDiscordMessageBlock",
    }


def test_calls_of_sub_graphs_by_ids_that_are_not_in_the_file_lead_to_them(agent_file: ReadFile):
    found = read(agent_file("personal-newsletter.json"))

    names = {each.id: (each.name, each.version) for each in found.sub_graphs}
    called = [node.input_default for node in found.nodes if "graph_id" in node.input_default]
    assert [(names[each["graph_id"]], each["graph_version"]) for each in called] == [
        (("Text to Email Report", 6), 6),
        (("Image Search", 21), 21),
    ]
