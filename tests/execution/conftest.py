"""Gives the tests here the engine and its steered blocks."""

from tests.execution.engine import engine, steered_blocks

__all__ = ["engine", "steered_blocks"]
