"""Writes the contract with clients by the code, docs/openapi.json: `python -m backend.contract [--release]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.api.rest_api import described

DOCS = Path(__file__).parents[1] / "docs"
CURRENT = DOCS / "openapi.json"
# What the last release has promised. It is a file of its own, as the other follows whatever the code does.
RELEASED = DOCS / "openapi-released.json"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.contract", description=__doc__)
    parser.add_argument("--release", action="store_true", help="what clients may now rely on, too")
    files = [CURRENT, RELEASED] if parser.parse_args(arguments).release else [CURRENT]
    for file in files:
        file.write_text(contract(), "utf-8")
        sys.stdout.write(f"{file.relative_to(DOCS.parent)} is written\n")
    return 0


def contract() -> str:
    """The OpenAPI document of this code, in a form whose changes can be read."""
    return json.dumps(described().openapi(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
