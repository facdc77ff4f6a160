"""The credentials that an agent needs: its slots, each for one credential and all nodes that can share it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from backend.graphs.catalogue import Catalogue
from backend.graphs.graph import Graph, Node
from backend.graphs.json_types import object_in
from backend.graphs.pins import base

# All that a graph or a run may hold of a credential.
REFERENCE = ("id", "provider", "type", "title")


class Use(NamedTuple):
    """A pin of a node, of the graph or of one below it, that takes a credential."""

    node: Node
    pin: str


class Kind(NamedTuple):
    """What a slot takes. `host` is set where all nodes send to the same one."""

    providers: tuple[str, ...]
    types: tuple[str, ...]
    host: str | None


@dataclass(frozen=True, slots=True)
class Slot:
    """A credential that a run of the graph takes; `required` unless the nodes say that they can do without."""

    key: str
    kind: Kind
    uses: tuple[Use, ...]
    required: bool


def is_credentials(schema: Any) -> bool:
    """Whether this is the schema of a pin that takes a credential."""
    return "credentials_types" in object_in(schema)


def slots(graph: Graph, catalogue: Catalogue) -> list[Slot]:
    """Those of the graph and of the graphs in it. A pin that is linked takes what comes along the link."""
    groups: defaultdict[Kind, list[Use]] = defaultdict(list)
    for each in graph.walk():
        fed = {(link.sink_id, base(link.sink_name)) for link in each.links}
        for node in each.nodes:
            for pin, schema in _pins(node, catalogue).items():
                if (node.id, pin) not in fed:
                    groups[_kind(node, schema, fed)].append(Use(node, pin))
    keys = _keys(list(groups))
    return [Slot(keys[kind], kind, tuple(uses), not all(map(_optional, uses))) for kind, uses in groups.items()]


def _pins(node: Node, catalogue: Catalogue) -> Mapping[str, Any]:
    spec = None if node.settings.disabled else catalogue.get(node.block_id)
    properties: Mapping[str, Any] = spec.input_schema["properties"] if spec else {}
    return {pin: schema for pin, schema in properties.items() if schema.get("credentials_types")}


def _kind(node: Node, schema: Mapping[str, Any], fed: set[tuple[str, str]]) -> Kind:
    pin = schema.get("discriminator")
    host = host_of(node.input_default.get(pin)) if pin and (node.id, pin) not in fed else None
    return Kind(tuple(schema["credentials_provider"]), tuple(schema["credentials_types"]), host)


def _optional(use: Use) -> bool:
    return use.node.metadata.get("credentials_optional") is True


def _keys(kinds: list[Kind]) -> dict[Kind, str]:
    """`<provider>_<type>_credentials`, with the host or a number where there are several."""
    alike: defaultdict[str, list[Kind]] = defaultdict(list)
    for kind in kinds:
        alike[f"{kind.providers[0]}_{kind.types[0]}"].append(kind)
    keys: dict[Kind, str] = {}
    for name, group in alike.items():
        for number, kind in enumerate(group, 1):
            part = f"_{kind.host or number}" if len(group) > 1 else ""
            keys[kind] = f"{name}{part}_credentials"
    return keys


def slot_schema(slot: Slot) -> dict[str, Any]:
    """The JSON Schema of what a start of a run gives for the slot."""
    providers, types, host = slot.kind
    return {
        "type": "object",
        "title": slot.key,
        "credentials_provider": list(providers),
        "credentials_types": list(types),
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "title": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "provider": {"type": "string", "enum": list(providers)},
            "type": {"type": "string", "enum": list(types)},
        },
        "required": ["id", "provider", "type"],
    } | ({"discriminator": "url", "discriminator_values": [host]} if host else {})


def credentials_schema(graph: Graph, catalogue: Catalogue) -> dict[str, Any]:
    """What a start of a run gives as `credentials_inputs`."""
    found = slots(graph, catalogue)
    properties = {slot.key: slot_schema(slot) for slot in found}
    return {"type": "object", "properties": properties, "required": [slot.key for slot in found if slot.required]}


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node in which credentials are references and nothing else, whatever a file has there."""
    return {pin: _reference(value) if _is_named_so(pin) else value for pin, value in values.items()}


def _is_named_so(pin: str) -> bool:
    return base(pin) == "credentials" or base(pin).endswith("_credentials")


def _reference(value: Any) -> dict[str, Any] | None:
    """None also for text: older files have whole keys there."""
    found = object_in(value)
    return {key: found[key] for key in REFERENCE if isinstance(found.get(key), str)} or None


# ---- Hosts -------------------------------------------------------------------------------------------------------


def host_of(url: Any) -> str | None:
    """The host of a URL, with its port if it names one; None if it is no URL."""
    if not isinstance(url, str):
        return None
    try:
        found = urlsplit(url.strip() if "://" in url else f"https://{url.strip()}")
        host, port = found.hostname, found.port
    except ValueError:
        return None
    if not host:
        return None
    plain = f"[{host}]" if ":" in host else host.rstrip(".")
    return f"{plain}:{port}" if port else plain


def covers(pattern: str, host: str) -> bool:
    """Whether a credential for `pattern` may be sent to `host` (`name` or `name:port`). One without a port is for all
    ports; `*.example.com` is for what is below example.com, not for itself."""
    wanted, wanted_port = _parts(pattern)
    found, port = _parts(host)
    if wanted_port and wanted_port != port:
        return False
    return found.endswith(wanted[1:]) if wanted.startswith("*.") else found == wanted


def _parts(host: str) -> tuple[str, str]:
    host = host.lower()
    name, separator, port = host.rpartition(":")
    if separator and port.isdecimal() and (name.endswith("]") or ":" not in name):
        return name.rstrip("."), port
    return host.rstrip("."), ""
