"""A block is registered by being importable; a file that is wrong is named."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from backend.blocks import registry
from backend.blocks.registry import RegistryError, collect

BLOCK = '''
"""A file of blocks."""
from backend.blocks.block import Block, BlockInput, BlockOutput, Category, Context, Example, Pins, pin

class DoubleBlock(Block):
    """Doubles a number."""

    id = "11111111-1111-4111-8111-111111111111"
    categories = (Category.LOGIC,)
    examples = (Example({"number": 2}, [("double", 4)]),)

    class Input(BlockInput):
        number: int = pin("The number")

    class Output(BlockOutput):
        double: int = pin("Twice the number")

    async def run(self, input: Input, context: Context) -> Pins:
        yield "double", 2 * input.number
'''

Package = Callable[..., ModuleType]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """`package(doubling=source)` makes an importable package with a file doubling.py."""
    name = f"blocks_of_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def make(**files: str) -> ModuleType:
        for file, source in {"__init__": "", **files}.items():
            (folder / f"{file}.py").write_text(source)
        return importlib.import_module(name)

    return make


def test_a_new_file_is_a_new_block(package: Package) -> None:
    found = collect(package(doubling=BLOCK))
    assert [block.name for block in found.values()] == ["DoubleBlock"]


def test_private_files_and_imported_or_private_classes_are_no_blocks(package: Package) -> None:
    again = "from .doubling import DoubleBlock\nclass _HiddenBlock(DoubleBlock): ..."
    found = collect(package(doubling=BLOCK, importing=again, _private=BLOCK))
    assert len(found) == 1


def test_two_blocks_with_one_id_are_refused_by_name(package: Package) -> None:
    with pytest.raises(RegistryError, match=r"/twice\.py: DoubleBlock has the id of DoubleBlock, 1111.*its own"):
        collect(package(doubling=BLOCK, twice=BLOCK))


@pytest.mark.parametrize(
    ("present", "changed", "complaint"),
    [
        ("    id =", "    ident =", r"doubling\.py: DoubleBlock lacks id\."),
        ('    """Doubles a number."""', "", r"doubling\.py: DoubleBlock lacks a docstring\."),
        ("class Output(", "class Outcome(", r"DoubleBlock lacks Output\."),
        ("def run(", "def walk(", r"DoubleBlock lacks run\(\)\."),
        ('id = "1', 'id = "A', r"has capitals, A111.*lower case"),
        ("import Block,", "import Blok,", r"doubling\.py cannot be imported: ImportError: .*Blok"),
        ("class DoubleBlock(Block):", "class DoubleBlock(Block:", r"cannot be imported: SyntaxError: .*doubling\.py"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(package: Package, present: str, changed: str, complaint: str) -> None:
    assert present in BLOCK
    with pytest.raises(RegistryError, match=complaint):
        collect(package(doubling=BLOCK.replace(present, changed)))


def test_blocks_we_do_not_have_are_known_by_name() -> None:
    names = registry.known_names()

    assert names["d76bbe4c-930e-4894-8469-b66775511f71"] == "AIImageCustomizerBlock"
    assert all(id == id.lower() for id in names)
    ours = {id: block.name for id, block in registry.blocks().items()}
    assert {id: names[id] for id in ours if id in names} == {id: name for id, name in ours.items() if id in names}


def test_a_description_shows_examples_as_documentation() -> None:
    by_name = {block.name: registry.describe(block) for block in registry.blocks().values()}

    calculator = by_name["CalculatorBlock"]["examples"]
    assert calculator[0] == {
        "input": {"operation": "Add", "a": 5, "b": 34},
        "output": [{"pin": "result", "value": 39}],
        "error": None,
    }
    assert by_name["GetCurrentDateBlock"]["examples"][0]["output"] == [{"pin": "date"}]
    assert by_name["CalculatorBlock"]["categories"] == [
        {"category": "LOGIC", "description": "Decisions, arithmetic and time"}
    ]


def test_importing_all_blocks_does_not_import_what_few_of_them_need() -> None:
    program = (
        "import json, sys; from backend.blocks import registry; registry.blocks();"
        "print(json.dumps([name for name in ('aiohttp', 'jinja2', 'regex') if name in sys.modules]))"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_only_the_schemas_that_are_asked_for_are_made(monkeypatch: pytest.MonkeyPatch):
    made: list[type] = []

    def watched(model: type) -> dict[str, object]:
        made.append(model)
        return {"type": "object", "properties": {}}

    monkeypatch.setattr(registry, "schema_of", watched)
    registry._spec.cache_clear()
    try:
        block = next(iter(registry.blocks().values()))
        catalogue = registry.catalogue()
        assert list(catalogue) == list(registry.blocks())
        assert catalogue[block.id] is registry.catalogue().get(block.id)
        assert made == [block.Input, block.Output]
        assert "unknown" not in catalogue
    finally:
        registry._spec.cache_clear()
