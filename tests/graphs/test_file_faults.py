"""Whatever is wrong with an agent file is told: all of it, where it is, and in a form that can be sent."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.graphs import exchange
from backend.graphs.exchange import read
from backend.graphs.faults import MAX_FAULTS, Fault, GraphFileError
from tests.graphs.graph_samples import ADD, file, link, node, steady


def faults_of(document: object) -> list[Fault]:
    with pytest.raises(GraphFileError) as error:
        read(document)
    return list(error.value.faults)


def found_in(document: object) -> list[Fault]:
    try:
        read(document)
    except GraphFileError as error:
        return list(error.faults)
    return []


def told(document: object) -> list[tuple[str, str]]:
    return [(fault.pointer, fault.code) for fault in faults_of(document)]


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        (b"", "not_json", "line 1, column 1"),
        (b'{"nodes": [}', "not_json", "line 1, column 12"),
        (b'{\n"nodes": [],\n"name": tru}', "not_json", "line 3, column 9"),
        (b"PK\x03\x04", "not_json", "line 1, column 1"),
        (b'{"nodes": [NaN]}', "not_a_number", "line 1, column 12"),
        (b'{"a": Infinity}', "not_a_number", "write null or a number"),
        (b'{"a": -Infinity}', "not_a_number", "write null or a number"),
        (b'{"a": 1e999}', "number_out_of_range", "line 1, column 7"),
        (b'{"a": "\\ud800"}', "lone_surrogate", "line 1, column 8"),
        (b"[" * 5000 + b"]" * 5000, "too_deep", "depth"),
        (b'{"nodes": [], "a": ' + b"[" * 101 + b"]" * 101 + b"}", "too_deep", "deeper than 100 levels"),
        (b"[]", "not_an_object", "has to be a JSON object, not a list"),
        (b"null", "not_an_object", "has to be a JSON object, not null"),
        (b'"text"', "not_an_object", "not text"),
    ],
)
def test_what_is_no_agent_file_at_all_is_refused(document: bytes, code: str, words: str):
    [fault] = faults_of(document)

    assert (fault.pointer, fault.code) == ("", code)
    assert words in fault.message


def test_a_file_of_100_levels_is_read():
    assert read(b'{"nodes": [], "a": ' + b"[" * 99 + b"]" * 99 + b"}")


def test_a_file_that_is_too_large_is_refused_with_the_limit():
    [fault] = faults_of(b" " * (exchange.MAX_FILE_BYTES + 1))

    assert fault.code == "too_large"
    assert "16,777,217 bytes: at most 16,777,216 (16 MiB)" in fault.message


def test_a_null_character_is_refused_where_it_is():
    document = orjson.dumps(file(node("a", ADD, **{"b\0": ["x", {"y/~": "\0"}]}), name="\0"))

    assert told(document) == [
        ("/nodes/0/input_default/b\0", "null_character"),
        ("/nodes/0/input_default/b\0/1/y~1~0", "null_character"),
        ("/name", "null_character"),
    ]


def test_an_escaped_backslash_is_not_a_null_character():
    assert read(b'{"nodes": [], "name": "\\\\u0000"}').name == "\\u0000"


def test_a_parsed_document_is_looked_through_for_what_json_does_not_know():
    values = {
        "nan": float("nan"),
        "inf": [float("-inf")],
        "half": "\ud800",
        "\udfff": 1,
        "big": 2**64,
        "set": {1},
        5: 1,
    }

    assert told(file(node("a", ADD, values=values))) == [
        ("/nodes/0/input_default/values/nan", "not_a_number"),
        ("/nodes/0/input_default/values/inf/0", "not_a_number"),
        ("/nodes/0/input_default/values/half", "lone_surrogate"),
        ("/nodes/0/input_default/values/\\udfff", "lone_surrogate"),
        ("/nodes/0/input_default/values/big", "number_out_of_range"),
        ("/nodes/0/input_default/values/set", "not_json"),
        ("/nodes/0/input_default/values/5", "not_json"),
    ]


def settings(**settings: object) -> dict[str, Any]:
    return node("b", ADD) | {"settings": settings}


FILE_FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "", "missing", "the file has no `nodes`"),
    ({"nodes": None}, "/nodes", "wrong_type", "nodes has to be a list, not null"),
    ({"nodes": {}}, "/nodes", "wrong_type", "nodes has to be a list, not an object"),
    ({"nodes": [3]}, "/nodes/0", "wrong_type", "nodes[0] has to be an object, not a number"),
    (file(version="new"), "/version", "wrong_type", "version has to be a whole number, not text"),
    (file(version=1.5), "/version", "wrong_type", "version has to be a whole number, not a number"),
    (file(version=0), "/version", "wrong_value", "greater than or equal to 1"),
    (file(version=2**31), "/version", "wrong_value", "less than or equal to 2147483647"),
    (file(name=5), "/name", "wrong_type", "name has to be text, not a number"),
    (file(is_active="maybe"), "/is_active", "wrong_type", "is_active has to be true or false, not text"),
    (file(links="none"), "/links", "wrong_type", "links has to be a list, not text"),
    (file(sub_graphs=[file()]), "/sub_graphs/0/id", "duplicate_graph", "sub_graphs[0].id is 'top'"),
]
PART_FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"block_id": ADD}, "/nodes/1", "missing", "nodes[1] has no `id`"),
    ({"id": "b", "block_id": None}, "/nodes/1/block_id", "wrong_type", "nodes[1].block_id has to be text, not null"),
    (node("b", ADD) | {"metadata": []}, "/nodes/1/metadata", "wrong_type", "has to be an object, not a list"),
    (settings(disbled=True), "/nodes/1/settings/disbled", "unknown_key", "nodes[1].settings.disbled is not known"),
    (settings(disabled="perhaps"), "/nodes/1/settings/disabled", "wrong_type", "has to be true or false, not text"),
    (settings(timeout_seconds="long"), "/nodes/1/settings/timeout_seconds", "wrong_type", "has to be a number"),
    (settings(timeout_seconds=0), "/nodes/1/settings/timeout_seconds", "wrong_value", "greater than 0"),
    (settings(retry={}), "/nodes/1/settings/retry", "missing", "nodes[1].settings.retry has no `times`"),
    (settings(retry={"times": 101}), "/nodes/1/settings/retry/times", "wrong_value", "less than or equal to 100"),
    (settings(retry={"times": 1, "delay": 2}), "/nodes/1/settings/retry/delay", "unknown_key", "is not known"),
    (node("a", ADD), "/nodes/1/id", "duplicate_node", "nodes[1].id is 'a', as is another node's"),
    ({"source_id": "a", "sink_id": "a", "source_name": "x"}, "/links/1", "missing", "links[1] has no `sink_name`"),
    (link("a.x", "a.y"), "/links/1/id", "duplicate_link", "links[1].id is 'a.x→a.y', as is another link's"),
    (link("gone.x", "a.y"), "/links/1/source_id", "unknown_node", "is 'gone', but no node of this graph has that id"),
    (link("a.x", "gone.y"), "/links/1/sink_id", "unknown_node", "links[1].sink_id is 'gone'"),
]


@pytest.mark.parametrize(("document", "pointer", "code", "words"), FILE_FAULTS)
def test_a_fault_of_the_file_is_told_with_its_place(document: object, pointer: str, code: str, words: str):
    [fault] = faults_of(document)

    assert (fault.pointer, fault.code) == (pointer, code)
    assert words in fault.message


@pytest.mark.parametrize(("part", "pointer", "code", "words"), PART_FAULTS)
def test_a_fault_of_a_node_or_link_is_told_with_its_place(part: dict[str, Any], pointer: str, code: str, words: str):
    sound = file(node("a", ADD), link("a.x", "a.y"))
    kind = "links" if "source_id" in part else "nodes"
    faulty = {**sound, kind: [*sound[kind], part]}

    for document, prefix in ((faulty, ""), (file(sub_graphs=[{**faulty, "id": "s"}]), "/sub_graphs/0")):
        [fault] = faults_of(document)
        assert (fault.pointer, fault.code) == (prefix + pointer, code)
        assert words in fault.message


def test_a_node_may_say_nothing_of_how_it_is_run():
    [unsaid] = read(file(node("a", ADD) | {"settings": None})).nodes
    assert "settings" not in unsaid.model_dump()


def test_a_node_without_block_id_is_told():
    assert told({"nodes": [{"id": "a"}]}) == [("/nodes/0", "missing")]


def test_all_faults_are_told_at_once():
    document = file(
        node("a", ADD), node("a", ADD), link("a.x", "gone.y"), name=1, version="x", sub_graphs=[{"id": "s"}]
    )

    assert {code for _, code in told(document)} == {"wrong_type", "missing", "duplicate_node", "unknown_node"}
    assert len(told(document)) == 5


def test_no_more_faults_are_told_than_anybody_reads():
    assert len(told({"nodes": [{}] * 5000})) == MAX_FAULTS
    assert len(told(file(*[link("a.x", "b.y") | {"id": str(number)} for number in range(5000)]))) == MAX_FAULTS


def test_more_nodes_links_or_levels_than_allowed_are_refused():
    nodes = [node(str(number), ADD) for number in range(10_001)]
    links = [{"source_id": "0", "sink_id": "0", "source_name": "x", "sink_name": "y"}] * 100_001
    nested = file(id="0")
    for level in range(1, 12):
        nested = file(id=str(level), sub_graphs=[nested])

    assert told({"nodes": nodes}) == [("/nodes", "too_many")]
    assert told({"nodes": nodes[:1], "links": links}) == [("/links", "too_many")]
    assert told(nested) == [("/sub_graphs/0" * 11, "too_deep")]
    assert read(nested["sub_graphs"][0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@steady
@given(st.data(), JSON)
def test_any_part_may_be_anything_and_the_file_is_read_or_refused(data: st.DataObject, junk: Any):
    document = file(
        node("a", ADD, b=1), link("a.x", "a.y"), sub_graphs=[file(node("b", ADD), link("b.x", "b.y"), id="s")]
    )
    parts = [document, document["sub_graphs"][0]]
    for part in [*parts, *(entry for each in parts for entry in each["nodes"] + each["links"])]:
        if data.draw(st.booleans()):
            part[data.draw(st.sampled_from(sorted(part)))] = junk
    assert orjson.dumps([fault._asdict() for fault in found_in(document)])


@steady
@given(st.binary(max_size=60) | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(document: bytes):
    assert orjson.dumps([fault._asdict() for fault in found_in(document)])
