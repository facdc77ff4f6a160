"""Gives the tests here the engine and its steered blocks."""

from tests.execution.engine import engine, gated, steered_blocks

__all__ = ["engine", "gated", "steered_blocks"]
