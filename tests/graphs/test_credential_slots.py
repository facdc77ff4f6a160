"""The slots of a graph: which nodes share a credential, what the slots are called, and to which hosts it may go."""

from __future__ import annotations

from typing import Any

import pytest

from backend.blocks import registry
from backend.graphs.credentials import covers, host_of, slots
from backend.graphs.graph import Graph
from backend.graphs.validation import problems

AUTHENTICATED = "fff86bcd-e001-4bad-a7f6-2eae4720c8dc"


def graph(*links: dict[str, str], **nodes: dict[str, Any]) -> Graph:
    described = [{"id": id, "block_id": AUTHENTICATED, **node} for id, node in nodes.items()]
    return Graph.model_validate({"nodes": described, "links": links})


def node(url: str, **more: Any) -> dict[str, Any]:
    return {"input_default": {"url": url}, **more}


def found(of: Graph) -> dict[str, list[str]]:
    assert problems(of, registry.catalogue(), {}) == []
    return {slot.key: [use.node.id for use in slot.uses] for slot in slots(of, registry.catalogue())}


def test_nodes_that_send_to_one_host_share_a_slot_and_others_have_one_with_the_host_in_its_name():
    one = {"a": node("https://x.example/1"), "b": node("https://X.example/2")}
    assert found(graph(**one)) == {"http_host_scoped_credentials": ["a", "b"]}
    several = graph(**one, c=node("https://y.example:8443/"))
    assert found(several) == {
        "http_host_scoped_x.example_credentials": ["a", "b"],
        "http_host_scoped_y.example:8443_credentials": ["c"],
    }


def test_a_slot_is_required_unless_its_nodes_can_do_without():
    optional = node("https://x.example", metadata={"credentials_optional": True})
    for nodes, required in (({"a": optional}, False), ({"a": optional, "b": node("https://x.example")}, True)):
        assert [slot.required for slot in slots(graph(**nodes), registry.catalogue())] == [required]


def test_a_node_that_is_disabled_or_is_given_its_credential_by_a_link_needs_none():
    link = {"source_id": "a", "source_name": "response", "sink_id": "b", "sink_name": "credentials"}
    off = node("https://y.example", settings={"disabled": True})
    assert found(graph(link, a=node("https://x.example"), b=node("https://x.example"), c=off)) == {
        "http_host_scoped_credentials": ["a"]
    }


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [
        ("api.example.com", "api.example.com:443", True),
        ("api.example.com", "API.example.com.", True),
        ("api.example.com:8443", "api.example.com:443", False),
        ("api.example.com", "api.example.com.evil.org", False),
        ("api.example.com", "evil-api.example.com", False),
        ("*.example.com", "a.b.example.com:80", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "evilexample.com", False),
        ("[::1]:80", "[::1]:80", True),
        ("[::1]", "[::1]:80", True),
        ("[::1]:80", "[::1]:81", False),
    ],
)
def test_a_credential_is_for_its_host_and_no_other(pattern: str, host: str, covered: bool):
    assert covers(pattern, host) is covered


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:pass@X.example:8443/path", "x.example:8443"),
        ("x.example/path", "x.example"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://[::1/", None),
        ("http://x.example:99999/", None),
        ("", None),
        (None, None),
    ],
)
def test_the_host_of_a_url_is_found_if_it_has_one(url: Any, host: str | None):
    assert host_of(url) == host
