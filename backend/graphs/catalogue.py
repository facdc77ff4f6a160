"""What a graph needs to know of the blocks its nodes use, without importing any block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class BlockKind(StrEnum):
    """What a block is to the graph that uses it; the values are upstream's `uiType`."""

    STANDARD = "Standard"
    INPUT = "Input"
    OUTPUT = "Output"
    NOTE = "Note"
    AGENT = "Agent"
    REVIEW = "Human In The Loop"
    TRIGGER = "Webhook (manual)"


@dataclass(frozen=True, slots=True)
class BlockSpec:
    """A block as a graph sees it. The schemas are JSON Schemas of type object: `properties` by pin, `required`."""

    id: str
    name: str
    kind: BlockKind
    static_output: bool
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any]


# By block id, in lower case.
Catalogue = Mapping[str, BlockSpec]
