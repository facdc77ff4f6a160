"""The blocks: one file per subject; a file dropped here registers its blocks by being importable (see registry.py).

Files of blocks do without `from __future__ import annotations`: pydantic would have to compile every annotation again,
which is a third of the time all blocks take to import.
"""
