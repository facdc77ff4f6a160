"""Large values of events, stored apart from them and once in each run, wherever in it they are met.

An event keeps instead, under the key APART, where they belong and the hash of each. Its readers see no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from backend.store.connection import Queryable

# Bytes of JSON above which a value is stored apart.
LARGE = 16 * 1024
# No other key of an event's data begins like this.
APART = "$apart"


def without_large(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The data of an event without its large values, and those as JSON by hash.

    They are looked for where values of users are: `value`, and each of the `inputs`.
    """
    left, apart, found = dict(data), dict[str, Any](), dict[str, bytes]()
    if "value" in data and (raw := _if_large(data["value"])):
        del left["value"]
        apart["value"] = _add(raw, found)
    large = {pin: raw for pin, value in data.get("inputs", {}).items() if (raw := _if_large(value))}
    if large:
        left["inputs"] = {pin: value for pin, value in data["inputs"].items() if pin not in large}
        apart["inputs"] = {pin: _add(raw, found) for pin, raw in large.items()}
    return (left | {APART: apart} if apart else left), found


def _if_large(value: Any) -> bytes | None:
    raw = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return raw if len(raw) > LARGE else None


def _add(raw: bytes, to: dict[str, bytes]) -> str:
    key = sha256(raw).hexdigest()
    to[key] = raw
    return key


async def insert(connection: Queryable, values: Sequence[tuple[UUID, str, bytes]]) -> None:
    """Store values as (run, hash, JSON), those which are there already excepted."""
    await connection.execute(
        """
        INSERT INTO run_values (run_id, hash, value)
        SELECT run_id, hash, value::json FROM unnest($1::uuid[], $2::text[], $3::text[]) AS given (run_id, hash, value)
        ON CONFLICT DO NOTHING
        """,
        [run_id for run_id, _, _ in values],
        [key for _, key, _ in values],
        [raw.decode() for _, _, raw in values],
    )


async def put_back(connection: Queryable, run_id: UUID, events: Iterable[dict[str, Any]]) -> bool:
    """Complete the data of events of one run by what was stored apart; False if that has been deleted meanwhile, with
    the run."""
    lacking = [(data, data.pop(APART)) for data in events if APART in data]
    if not lacking:
        return True
    wanted = list({key for _, apart in lacking for key in _hashes(apart)})
    rows = await connection.fetch(
        "SELECT hash, value FROM run_values WHERE run_id = $1 AND hash = ANY($2::text[])", run_id, wanted
    )
    if len(rows) < len(wanted):
        return False
    values = {row["hash"]: row["value"] for row in rows}
    for data, apart in lacking:
        if "value" in apart:
            data["value"] = values[apart["value"]]
        if "inputs" in apart:
            data["inputs"] |= {pin: values[key] for pin, key in apart["inputs"].items()}
    return True


def _hashes(apart: Mapping[str, Any]) -> Iterator[str]:
    yield from apart.get("inputs", {}).values()
    if "value" in apart:
        yield apart["value"]
