"""Which blocks there are: every class named …Block in the modules of this package, found by importing them.

A new block is a new file (or a class in one) and no edit elsewhere. Files beginning with `_` hold no blocks.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import backend.blocks
from backend.blocks.block import Block, Example, Varies
from backend.blocks.schema import schema_of
from backend.graphs.catalogue import BlockSpec, Catalogue

_NAME = re.compile(r"[^_].*Block")
_PIECES = ("id", "categories", "Input", "Output", "examples")


class RegistryError(Exception):
    """A block's file is wrong. The message names the file and what to mend."""


@cache
def blocks() -> Mapping[str, Block]:
    """Return every block by id. Raises RegistryError."""
    return collect(backend.blocks)


def collect(package: ModuleType) -> dict[str, Block]:
    """Import the modules of a package and return the blocks in them by id. Raises RegistryError."""
    found: dict[str, Block] = {}
    for kind in _block_classes(package):
        block = _checked(kind)
        if other := found.get(block.id):
            raise RegistryError(f"{_file(kind)}: {block.name} has the id of {other.name}, {block.id}: give it its own.")
        found[block.id] = block
    return found


def _block_classes(package: ModuleType) -> Iterator[type[Block]]:
    for info in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        if info.name.rpartition(".")[2].startswith("_"):
            continue
        module = _imported(info.name)
        for name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and issubclass(value, Block) and _NAME.fullmatch(name):
                yield value


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        path = name.replace(".", "/")
        raise RegistryError(f"{path}.py cannot be imported: {type(error).__name__}: {error}") from error


def _checked(kind: type[Block]) -> Block:
    missing = [piece for piece in _PIECES if not hasattr(kind, piece)]
    missing += [] if kind.__doc__ else ["a docstring"]
    missing += [f"{method}()" for method in sorted(kind.__abstractmethods__)]
    if missing:
        raise RegistryError(f"{_file(kind)}: {kind.__name__} lacks {', '.join(missing)}.")
    if kind.id != kind.id.lower():
        raise RegistryError(
            f"{_file(kind)}: the id of {kind.__name__} has capitals, {kind.id}: write it in lower case."
        )
    return kind()


def _file(kind: type[Block]) -> str:
    return kind.__module__.replace(".", "/") + ".py"


def catalogue() -> Catalogue:
    """Return what graphs need to know of every block."""
    return _Catalogue()


class _Catalogue(Catalogue):
    """Makes a block's entry when it is first asked for: all of them take pydantic a tenth of a second."""

    def __getitem__(self, id: str) -> BlockSpec:
        return _spec(blocks()[id])

    def __iter__(self) -> Iterator[str]:
        return iter(blocks())

    def __len__(self) -> int:
        return len(blocks())


@cache
def _spec(block: Block) -> BlockSpec:
    return BlockSpec(
        id=block.id,
        name=block.name,
        kind=block.kind,
        static_output=block.static_output,
        input_schema=schema_of(block.Input),
        output_schema=schema_of(block.Output),
    )


@cache
def known_names() -> Mapping[str, str]:
    """Return the names of blocks known elsewhere by id, so that one we do not have can be named."""
    return json.loads(Path(__file__).with_name("upstream_names.json").read_text())


def describe(block: Block) -> dict[str, Any]:
    """Return a block as the API shows it."""
    spec = catalogue()[block.id]
    return {
        "id": spec.id,
        "name": spec.name,
        "inputSchema": spec.input_schema,
        "outputSchema": spec.output_schema,
        "description": block.description,
        "categories": [{"category": each.name, "description": each.value} for each in block.categories],
        "contributors": [],
        "staticOutput": spec.static_output,
        "uiType": spec.kind.value,
        "costs": [],
        "examples": list(_shown(block.examples)),
    }


def _shown(examples: Iterable[Example]) -> Iterator[dict[str, Any]]:
    for example in examples:
        output = [
            {"pin": pin} | ({} if isinstance(value, Varies) else {"value": value}) for pin, value in example.output
        ]
        yield {"input": example.input, "output": output, "error": example.error}
