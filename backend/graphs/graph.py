"""The model of an agent: a graph of nodes (uses of blocks) joined by links, with the graphs it calls as sub-graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, cast
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from backend.store.identifiers import is_id

MAX_NODES = 10_000
MAX_LINKS = 100_000
MAX_VERSION = 2**31 - 1  # what fits a PostgreSQL integer

# The block that runs another graph; its `input_default` holds that graph's id.
AGENT_EXECUTOR = "e189baac-8c20-45a1-94a7-55177ea42565"


def new_id() -> str:
    return str(uuid4())


def _null_is(make: Callable[[], object]) -> BeforeValidator:
    """Files write null where a value is merely absent."""
    return BeforeValidator(lambda found: make() if found is None else found)


Text = Annotated[str, _null_is(str)]
Id = Annotated[str, _null_is(new_id), Field(default_factory=new_id)]
Object = Annotated[dict[str, Any], _null_is(dict), Field(default_factory=dict)]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]


class _Part(BaseModel):
    # Agent files carry much that is derived or of another time: what a field does not name is left behind.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Retry(BaseModel):
    """How often a node that failed is tried again, and how long it waits before: each time `factor` times longer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    times: Annotated[int, Field(ge=1, le=100, examples=[3])]
    delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 1
    factor: Annotated[float, Field(ge=1, le=10)] = 2
    max_delay_seconds: Annotated[float, Field(ge=0, le=86_400)] = 3600


class NodeSettings(BaseModel):
    """How a node is run. `timeout_seconds` is for each try, without what it waits for outside the run; a node that is
    `disabled` never runs, and nothing comes out of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    disabled: bool = False
    timeout_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    retry: Retry | None = None


class Node(_Part):
    """One use of a block. `input_default` and `metadata` belong to the user and are kept whole."""

    id: str
    block_id: Annotated[str, StringConstraints(to_lower=True)]
    input_default: Object
    metadata: Object
    settings: Annotated[NodeSettings, _null_is(NodeSettings)] = Field(
        default=NodeSettings(), exclude_if=lambda settings: settings == NodeSettings()
    )

    @property
    def name(self) -> str | None:
        """What the user called this node, if anything."""
        name = self.metadata.get("customized_name")
        return name if isinstance(name, str) and name else None


class Link(_Part):
    """A way for values: from a pin of the source node to a pin of the sink node."""

    id: Id
    source_id: str
    sink_id: str
    source_name: str
    sink_name: str
    is_static: Annotated[bool, _null_is(bool)] = False


class Graph(_Part):
    """One version of an agent. Ids are unique within the graph; `sub_graphs` are the agents its nodes may call."""

    id: Id
    version: Annotated[Version, _null_is(lambda: 1)] = 1
    is_active: Annotated[bool, _null_is(lambda: True)] = True
    name: Text = ""
    description: Text = ""
    instructions: str | None = None
    recommended_schedule_cron: str | None = None
    forked_from_id: str | None = None
    forked_from_version: Version | None = None
    nodes: Annotated[list[Node], Field(max_length=MAX_NODES)]
    links: Annotated[list[Link], _null_is(list), Field(default_factory=list, max_length=MAX_LINKS)]
    sub_graphs: Annotated[list[Graph], _null_is(list), Field(default_factory=list)]

    def walk(self) -> Iterator[Graph]:
        """This graph, then every graph below it."""
        yield self
        for sub_graph in self.sub_graphs:
            yield from sub_graph.walk()

    def with_nodes(self, changed: Callable[[Node], Node]) -> Graph:
        """A copy of this graph and those below in which each node is what `changed` makes of it."""
        nodes = [changed(node) for node in self.nodes]
        sub_graphs = [each.with_nodes(changed) for each in self.sub_graphs]
        return self.model_copy(update={"nodes": nodes, "sub_graphs": sub_graphs})

    def as_version(self, version: int) -> Graph:
        """A copy that is this version, and active; calls of it from itself and those below follow."""
        called = {self.id: {"graph_version": version}}
        copy = self.with_nodes(lambda node: _with_call(node, called))
        return copy.model_copy(update={"version": version, "is_active": True})


def with_new_ids(graph: Graph, kept: Mapping[str, int] | None = None) -> Graph:
    """A copy in which every graph, node and link has a new UUID, and calls of the graphs in it follow, to the version
    that is there.

    An id that means something outside (a graph called but not included, `forked_from_id`) is kept. For a new version of
    a graph, `kept` has the graphs that keep their ids, with the version each becomes: then nodes and links keep theirs
    if those are UUIDs, as all are that were given here.
    """
    versions = kept or {}
    calls = {
        each.id: {
            "graph_id": each.id if each.id in versions else new_id(),
            "graph_version": versions.get(each.id, each.version),
        }
        for each in graph.walk()
    }
    renew = _renewed_id if kept is None else _kept_id
    node_ids = {each.id: {node.id: renew(node.id) for node in each.nodes} for each in graph.walk()}
    return _renewed(graph, calls, node_ids, renew)


def _renewed_id(_: str) -> str:
    return new_id()


def _kept_id(id: str) -> str:
    return id if is_id(id) else new_id()


# By the id of a graph: what a call of it says from now on, and the new ids of its nodes.
_Calls = dict[str, dict[str, Any]]
_NodeIds = dict[str, dict[str, str]]


def _renewed(graph: Graph, calls: _Calls, node_ids: _NodeIds, renew: Callable[[str], str]) -> Graph:
    own = node_ids[graph.id]
    nodes = [_with_call(_with_masks(node, node_ids), calls) for node in graph.nodes]
    changes = {
        "id": calls[graph.id]["graph_id"],
        "version": calls[graph.id]["graph_version"],
        "nodes": [node.model_copy(update={"id": own[node.id]}) for node in nodes],
        "links": [_renewed_link(link, own, renew) for link in graph.links],
        "sub_graphs": [_renewed(each, calls, node_ids, renew) for each in graph.sub_graphs],
    }
    return graph.model_copy(update=changes)


def _with_masks(node: Node, node_ids: _NodeIds) -> Node:
    """The node with its values for nodes of a graph that it calls, and that is here, by the new ids of those."""
    ids, masks = node_ids.get(str(node.input_default.get("graph_id"))), node.input_default.get("nodes_input_masks")
    if node.block_id != AGENT_EXECUTOR or ids is None or not isinstance(masks, dict):
        return node
    renewed = {ids[id]: mask for id, mask in cast("dict[str, Any]", masks).items() if id in ids}
    return node.model_copy(update={"input_default": node.input_default | {"nodes_input_masks": renewed}})


def _with_call(node: Node, calls: _Calls) -> Node:
    called = node.input_default.get("graph_id")
    if node.block_id != AGENT_EXECUTOR or not isinstance(called, str) or called not in calls:
        return node
    return node.model_copy(update={"input_default": node.input_default | calls[called]})


def _renewed_link(link: Link, node_ids: dict[str, str], renew: Callable[[str], str]) -> Link:
    ends = {"source_id": node_ids[link.source_id], "sink_id": node_ids[link.sink_id]}
    return link.model_copy(update={"id": renew(link.id), **ends})
