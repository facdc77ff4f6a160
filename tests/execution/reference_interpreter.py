"""The execution rule a second time: sequential, slow, and so short that one can see that it is right.

It is written from what users of AutoGPT's platform know, not from our code, and it is what our code is held to:

1. A run starts the nodes without incoming link, and every input node, linked or not. A note never runs.
2. An input node that starts gets `value` = the run's input of its name. One that runs because a value came along a link
   gets that value.
3. A value that a node puts out travels at once along every link from that pin, in the order of the links. A link whose
   source is a path (`out_#_key_$_0_@_name`) carries the part at the path. A path that leads nowhere delivers nothing;
   null is a value.
4. At the sink, the value goes to the oldest incomplete execution that has not got that pin; if there is none, to a new
   one. So values pair up first in, first out, per pin, and two links into one pin are alternatives in time.
5. A pin is static if a static link leads to it; the links out of a block whose output is static all are. An execution
   to which a value came and which lacks only static pins takes them from the latest execution of that node that became
   complete. What it cannot complete itself with it does not keep: a newer static value may still come to it.
6. It is complete when every linked pin has a value (by the exact name, path included).
7. If the link was static, every other incomplete execution of the sink is tried again by 5 and 6, oldest first.
8. The input of an execution is the node's defaults under what came; pins that are paths are put into the value of their
   pin, short paths first, then by name: a dictionary or list begins where there is none, lists are padded with null.
   A path that does not fit the value that is there fails the node.
9. Each pin's value is converted to the pin's type. That never fails. Null becomes the pin's own default.
10. A node that puts out `error` has failed, and is over. Its error travels like any value. If it leads nowhere, the run
    will have failed; everything else goes on nevertheless.
11. The outputs of a run are the `value`s of the executions of its output nodes, by `name`.
12. A mask gives pins of a node, by their exact names, values for one run. Such a pin needs no value for 6; it does not
    start a node that has links. One that comes along a link is taken as by 4, but the mask's value replaces it, and the
    default and the run's input, before the parts are put together by 8.
13. A disabled node never runs, and links into it lead nowhere, as if it were a note; but it is told among the nodes
    that never ran. Whoever waits for a value of it waits in vain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Of a block: "Standard", "Input", "Output" or "Note", and whether its output is static.
Kinds = Mapping[str, tuple[str, bool]]
# By node and pin.
Masks = Mapping[str, Mapping[str, Any]]


class DoesNotFit(Exception):
    """A path needs a list or a dictionary where there is something else (rule 8)."""


class Execution:
    def __init__(self, number: int, node: dict[str, Any], starts: bool) -> None:
        self.number, self.node, self.starts = number, node, starts
        self.got: dict[str, Any] = {}
        self.complete = starts


class ReferenceRun:
    """`executions` has all that there are of a run, in the order in which they came to be."""

    def __init__(self, graph: dict[str, Any], inputs: dict[str, Any], kinds: Kinds, masks: Masks) -> None:
        self.graph, self.inputs, self.kinds, self.masks = graph, inputs, kinds, masks
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        self.executions: list[Execution] = []
        self.latest: dict[str, Execution] = {}  # by node, that became complete by what came along links

    def start(self) -> list[Execution]:
        """The executions that begin a run (rule 1)."""
        linked = {link["sink_id"] for link in self.graph["links"]}
        for node in self.graph["nodes"]:
            kind = self.kind(node)
            if kind == "Input" or (kind != "Note" and node["id"] not in linked):
                self.new(node, starts=True)
        return list(self.executions)

    def put_out(self, node_id: str, pin: str, value: Any) -> list[Execution]:
        """Send a value on its way; the executions that became complete (rule 3)."""
        complete: list[Execution] = []
        for link in self.graph["links"]:
            if link["source_id"] == node_id and self.kind(self.nodes[link["sink_id"]]) != "Note":
                found = [value] if link["source_name"] == pin else self.at_path(link["source_name"], pin, value)
                for part in found:
                    complete += self.arrive(link, part)
        return complete

    def arrive(self, link: dict[str, Any], value: Any) -> list[Execution]:
        node = self.nodes[link["sink_id"]]
        pin = link["sink_name"]
        lacking = [each for each in self.incomplete(node) if pin not in each.got]
        execution = lacking[0] if lacking else self.new(node, starts=False)  # rule 4
        execution.got[pin] = value
        tried = [execution]
        if self.is_static(link):
            tried += [each for each in self.incomplete(node) if each is not execution]  # rule 7
        return [each for each in tried if self.becomes_complete(each)]

    def becomes_complete(self, execution: Execution) -> bool:
        node_id = execution.node["id"]
        got = dict(execution.got)
        latest = self.latest.get(node_id)
        for pin in self.linked_pins(node_id):
            if pin not in got and latest and pin in latest.got and self.is_static_pin(node_id, pin):
                got[pin] = latest.got[pin]  # rule 5
        if self.linked_pins(node_id) - got.keys() - self.mask(node_id).keys():
            return False
        execution.got, execution.complete = got, True  # rules 6 and 12
        self.latest[node_id] = execution
        return True

    def new(self, node: dict[str, Any], starts: bool) -> Execution:
        execution = Execution(len(self.executions) + 1, node, starts)
        self.executions.append(execution)
        return execution

    def input_of(self, execution: Execution) -> dict[str, Any]:
        """Rules 2, 8 and 12. Raises DoesNotFit."""
        node = execution.node
        data = {**node["input_default"], **execution.got}
        if self.kind(node) == "Input" and execution.starts and data["name"] in self.inputs:
            data["value"] = self.inputs[data["name"]]
        data |= self.mask(node["id"])
        whole = {pin: value for pin, value in data.items() if not steps_of(pin)}
        for pin in sorted(data, key=lambda pin: (len(steps_of(pin)), pin)):
            if steps_of(pin):
                name = base_of(pin)
                whole[name] = put(whole.get(name), steps_of(pin), data[pin])
        return whole

    def at_path(self, source_name: str, pin: str, value: Any) -> list[Any]:
        """The part of a value that a link takes, or nothing (rule 3)."""
        if base_of(source_name) != pin:
            return []
        for kind, key in steps_of(source_name):
            if kind == "$" and isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            elif kind in "#@" and isinstance(value, dict) and key in value:
                value = value[key]
            else:
                return []
        return [value]

    def incomplete(self, node: dict[str, Any]) -> list[Execution]:
        return [each for each in self.executions if each.node is node and not each.complete]

    def linked_pins(self, node_id: str) -> set[str]:
        return {link["sink_name"] for link in self.graph["links"] if link["sink_id"] == node_id}

    def is_static_pin(self, node_id: str, pin: str) -> bool:
        links = [link for link in self.graph["links"] if (link["sink_id"], link["sink_name"]) == (node_id, pin)]
        return any(self.is_static(link) for link in links)

    def is_static(self, link: dict[str, Any]) -> bool:
        return link.get("is_static", False) or self.kinds[self.nodes[link["source_id"]]["block_id"]][1]

    def kind(self, node: dict[str, Any]) -> str:
        """A disabled node is as good as a note (rule 13)."""
        return "Note" if node.get("settings", {}).get("disabled") else self.kinds[node["block_id"]][0]

    def mask(self, node_id: str) -> Mapping[str, Any]:
        return self.masks.get(node_id, {})

    def lacks(self, execution: Execution) -> set[str]:
        """The pins that an incomplete execution waits for; static ones that are known only if there is no other."""
        node_id = execution.node["id"]
        pins = self.linked_pins(node_id) - execution.got.keys() - self.mask(node_id).keys()
        known = {pin for pin in pins if self.is_static_pin(node_id, pin)} if self.latest.get(node_id) else set[str]()
        return pins - known or pins

    def handles_error(self, node: dict[str, Any]) -> bool:
        links = [link for link in self.graph["links"] if link["source_id"] == node["id"]]
        errors = [link for link in links if base_of(link["source_name"]) == "error"]
        return any(self.kind(self.nodes[link["sink_id"]]) != "Note" for link in errors)

    def never_ran(self) -> set[str]:
        """The nodes without a complete execution; notes do not count, even if they are disabled."""
        ran = {each.node["id"] for each in self.executions if each.complete}
        return {node["id"] for node in self.graph["nodes"] if self.kinds[node["block_id"]][0] != "Note"} - ran


def base_of(pin: str) -> str:
    return re.split("_[#$@]_", pin)[0]


def steps_of(pin: str) -> list[tuple[str, str]]:
    return re.findall(r"_([#$@])_(.*?)(?=_[#$@]_|$)", pin)


def put(whole: Any, steps: list[tuple[str, str]], value: Any) -> Any:
    """A copy of `whole` with `value` at the path (rule 8)."""
    if not steps:
        return value
    (kind, key), rest = steps[0], steps[1:]
    if whole is None or whole == "":
        whole = [] if kind == "$" else {}
    if kind == "$" and isinstance(whole, list):
        index = int(key)
        padded = whole + [None] * (index + 1 - len(whole))
        return [*padded[:index], put(padded[index], rest, value), *padded[index + 1 :]]
    if kind in "#@" and isinstance(whole, dict):
        return {**whole, key: put(whole.get(key), rest, value)}
    raise DoesNotFit


def convert(value: Any, wanted: str) -> Any:
    """A JSON value as the type of a pin: "any", "text", "number", "list" or "object" (rule 9)."""
    if wanted == "text":
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if wanted == "number":
        return as_number(value)
    if wanted == "list":
        return as_list(value)
    return as_object(value) if wanted == "object" else value


def as_number(value: Any) -> int:
    if isinstance(value, list | dict):
        return len(value)
    try:
        return int(value)
    except ValueError:
        return 0


def as_list(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [[key, item] for key, item in value.items()]
    parsed = from_json(value)
    if isinstance(parsed, list):
        return parsed
    return value if isinstance(value, list) else [value]


def as_object(value: Any) -> dict[str, Any]:
    parsed = from_json(value)
    value = parsed if isinstance(parsed, list | dict) else value
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, dict) else {"value": value}


def from_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return None
