"""The writer of an executor: what it writes at once is bounded, whatever the values are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from backend.execution import journal
from backend.execution.journal import Journal
from backend.store import events
from backend.store.connection import Queryable
from backend.store.events import Entry, Event


async def batches(entries: Sequence[Entry], monkeypatch: pytest.MonkeyPatch) -> list[list[Entry]]:
    """How a journal writes entries that are there at once."""
    written: list[list[Entry]] = []

    async def append(_: Queryable, batch: list[Entry]) -> set[UUID]:
        written.append(batch)
        return {entry.run_id for entry in batch}

    monkeypatch.setattr(events, "append", append)
    of = Journal(None)
    for entry in entries:
        of.append(entry, lambda owned: None)
    writing = asyncio.create_task(of.write_forever())
    await of.drain()
    writing.cancel()
    return [batch for batch in written if batch]


def entry(small: int, large: int = 0) -> Entry:
    return Entry(uuid4(), 1, [Event(1, "node.output", "x" * small, large=[("hash", b"x" * large)] if large else ())])


async def test_a_batch_is_bounded_by_its_bytes_also_by_those_of_large_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal, "BATCH_BYTES", 100)
    entries = [entry(40), entry(10, 50), entry(1), entry(0, 500), entry(60), entry(41), entry(10)]
    written = await batches(entries, monkeypatch)
    assert written == [entries[:2], entries[2:3], entries[3:4], entries[4:5], entries[5:]]


async def test_small_entries_are_written_as_many_at_once_as_a_batch_may_have(monkeypatch: pytest.MonkeyPatch):
    entries = [entry(1) for _ in range(2 * journal.BATCH + 1)]
    assert [len(batch) for batch in await batches(entries, monkeypatch)] == [journal.BATCH, journal.BATCH, 1]
