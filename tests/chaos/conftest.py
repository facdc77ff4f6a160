"""Gives these tests the web service of the journeys."""

from tests.journeys.conftest import stub

__all__ = ["stub"]
