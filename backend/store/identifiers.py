"""The ids of rows: new ones, and those that follow from what they belong to."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID, uuid5


def new_id() -> UUID:
    """Ids sort by the time they were made, so that new rows land side by side in an index (UUIDv7, RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def node_run_id(run_id: UUID, number: int) -> UUID:
    """Always the same for the same node run."""
    return uuid5(run_id, str(number))


def child_run_id(run_id: UUID, node_run: int, number: int) -> UUID:
    """Always the same for the `number`th run that a node run begins: so it cannot be begun twice."""
    return uuid5(run_id, f"{node_run}.{number}")


def scheduled_run_id(schedule_id: UUID, time: datetime) -> UUID:
    """Always the same for the run that a schedule begins at a time."""
    return uuid5(schedule_id, time.astimezone(UTC).isoformat())


def file_id(run_id: UUID, node_run: int, number: int) -> UUID:
    """Always the same for the `number`th file that a node run keeps."""
    return uuid5(run_id, f"{node_run}.file.{number}")


def is_id(text: str) -> bool:
    """Whether it is a UUID, written as ids are here."""
    try:
        return text == str(UUID(text))
    except ValueError:
        return False
