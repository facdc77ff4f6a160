"""Why nodes of a run never ran: for each pin they waited for, what became of its sources."""

from __future__ import annotations

from collections.abc import Sequence

from backend.blocks import registry
from backend.execution.dataflow import Dataflow
from backend.execution.plan import Plan
from backend.graphs.catalogue import BlockKind
from backend.graphs.graph import Link, Node
from backend.graphs.pins import base

# Pins of a node, and sources of a pin, that are told; of more, only how many they are.
TOLD = 3


def never_ran(plan: Plan, flow: Dataflow) -> list[dict[str, str]]:
    """The nodes of a run at its end that never ran, as {"node_id", "reason"}; notes are not told, as they never run."""
    return [
        {"node_id": node.id, "reason": _reason(plan, flow, node.id)}
        for node in plan.topology.nodes.values()
        if node.id not in flow.ran and not _is_note(node)
    ]


def _is_note(node: Node) -> bool:
    block = registry.blocks().get(node.block_id)
    return block is not None and block.kind is BlockKind.NOTE


def _reason(plan: Plan, flow: Dataflow, node_id: str) -> str:
    if node_id not in plan.nodes:
        return "is disabled"
    sources: dict[str, list[Link]] = {pin: [] for pin in flow.lacks(node_id)}
    for link in plan.topology.incoming.get(node_id, ()):
        if link.sink_name in sources:
            sources[link.sink_name].append(link)
    return "waits for " + _listed([f"the pin `{pin}`: {_fate(plan, flow, links)}" for pin, links in sources.items()])


def _fate(plan: Plan, flow: Dataflow, links: Sequence[Link]) -> str:
    fates = list(dict.fromkeys(_source_fate(plan, flow, link) for link in links))
    if len(fates) == 1:
        return f"its only source, {fates[0]}"
    return f"none of its sources gave a value: {_listed(fates)}"


def _source_fate(plan: Plan, flow: Dataflow, link: Link) -> str:
    if link.source_id not in plan.nodes:
        node = plan.topology.nodes[link.source_id]
        return f"{node.name or 'a node'} ({node.id}), is disabled"
    source, pin = plan.nodes[link.source_id], base(link.source_name)
    put_out = flow.put_out.get(source.id, set[str]())
    if source.block.kind is BlockKind.NOTE:
        fate = "is a note, which never runs"
    elif source.id not in flow.ran:
        fate = "never ran"
    elif pin in put_out:
        fate = f"put out `{pin}`, but never with anything at `{link.source_name}`"
    elif pin == "error":
        fate = "did not fail"
    else:
        fate = "failed" if "error" in put_out else f"never put out `{pin}`"
    return f"{source.title}, {fate}"


def _listed(parts: Sequence[str]) -> str:
    more = [f"{len(parts) - TOLD} more"] if len(parts) > TOLD else []
    return "; ".join([*parts[:TOLD], *more])
