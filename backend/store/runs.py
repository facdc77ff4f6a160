"""Runs. One executor at a time owns a run; `attempt` fences off every earlier owner.

A run that is RUNNING or in REVIEW without an executor waits: for waking.py to put it back into the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, TypedDict, Unpack
from uuid import UUID

from asyncpg import Record

from backend.store import lists
from backend.store.connection import Queryable
from backend.store.lists import START, Place, total
from backend.store.users import DEFAULT_USER

# Channel of NOTIFY, as the statements below name it. A notification is a hint to look, never the news itself.
QUEUED = "run_queued"

# The statuses that a run keeps.
ENDED = frozenset({"COMPLETED", "FAILED", "TERMINATED"})


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One execution of one version of a graph.

    `parent_run_id` and `parent_node_run` are set for a run that a node of another run began; `depth` counts how many
    such runs it is below the first. A run that is a rerun has had events of the run `rerun_of` from its beginning.
    `input_masks` is {node id: {pin: value}}. Of the runs with one `concurrency_key` no more than `concurrency_limit`
    run at a time. `node_runs` is how many it has begun, told by the last executor that let go of it. Whoever has the
    `share_token` may see the outputs. `schedule_id` is the schedule that began it. `credentials` are references, by
    slot {id, provider, type, title, nodes: {node id: pin}}, for the run and those below it. `request_id` is that of the
    request that began it, or the first above it, and is in the log wherever that is of the run.
    """

    id: UUID
    graph_id: UUID
    graph_version: int
    status: str
    inputs: dict[str, Any]
    error: str | None
    stop_requested: bool
    attempt: int
    executor: UUID | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    parent_run_id: UUID | None
    parent_node_run: int | None
    depth: int
    user_id: UUID = DEFAULT_USER
    priority: int = 0
    paused: bool = False
    rerun_of: UUID | None = None
    input_masks: dict[str, dict[str, Any]] | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    node_runs: int | None = None
    labels: dict[str, str] | None = None
    share_token: str | None = None
    schedule_id: UUID | None = None
    credentials: dict[str, dict[str, Any]] | None = None
    request_id: str | None = None

    @property
    def masks(self) -> dict[str, dict[str, Any]]:
        """The values for pins of nodes, with the references to credentials."""
        masks = dict(self.input_masks or {})
        for slot in (self.credentials or {}).values():
            reference = {key: value for key, value in slot.items() if key != "nodes"}
            for node_id, pin in slot["nodes"].items():
                masks[node_id] = masks.get(node_id, {}) | {pin: reference}
        return masks


# Each by its name: a statement that asks for whatever columns there are fails, once in every session that has prepared
# it, when newer code has added one.
COLUMNS = ", ".join(f"runs.{name}" for name in StoredRun.__slots__)


class Options(TypedDict, total=False):
    """What may be said of a run that is queued, as StoredRun has it."""

    user_id: UUID
    priority: int
    rerun_of: UUID | None
    input_masks: dict[str, dict[str, Any]] | None
    concurrency_key: str | None
    concurrency_limit: int | None
    credentials: dict[str, dict[str, Any]] | None
    labels: dict[str, str] | None
    request_id: str | None


# The hint of a new run is its id: those who watch runs look at this one.
_QUEUE = """
    WITH run AS (
        INSERT INTO runs (
            id, graph_id, graph_version, status, inputs, priority, rerun_of, input_masks, concurrency_key,
            concurrency_limit, user_id, labels, credentials, request_id, limited
        ) VALUES (
            $1, $2, $3, 'QUEUED', $4, $5, $6, $7, $8::text, $9, $10, $11, $12, $13,
            $8::text IS NOT NULL OR EXISTS (
                SELECT FROM graph_settings WHERE graph_id = $2 AND max_concurrent_runs IS NOT NULL
            )
        ) RETURNING *
    ), event AS (
        INSERT INTO run_events (run_id, number, type, data, created_at)
        SELECT id, 1, 'run.queued', '{}', created_at FROM run
    )"""
_LABELLED = """, labelled AS (
        INSERT INTO run_labels (user_id, graph_id, label, created_at, run_id)
        SELECT user_id, graph_id, label, created_at, id FROM run, unnest($14::text[]) AS label
    )"""
_HINTED = f" SELECT {COLUMNS}, pg_notify('run_queued', runs.id::text) FROM run AS runs"


async def insert(
    connection: Queryable,
    id: UUID,
    graph_id: UUID,
    graph_version: int,
    inputs: dict[str, Any],
    **options: Unpack[Options],
) -> StoredRun:
    """Queue a run: the row, its first event and the wake-up of an executor, in one transaction."""
    labels = options.get("labels")
    row = await connection.fetchrow(
        f"{_QUEUE}{_LABELLED if labels else ''}{_HINTED}",
        id,
        graph_id,
        graph_version,
        inputs,
        options.get("priority", 0),
        options.get("rerun_of"),
        options.get("input_masks"),
        options.get("concurrency_key"),
        options.get("concurrency_limit"),
        options.get("user_id", DEFAULT_USER),
        labels,
        options.get("credentials"),
        options.get("request_id"),
        *([[label(*each) for each in labels.items()]] if labels else ()),
    )
    assert row is not None
    return run_of(row)


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that a schedule or a trigger begins. Its id follows from what it is begun for: there is never a second."""

    id: UUID
    user_id: UUID
    graph_id: UUID
    graph_version: int
    inputs: dict[str, Any]
    input_masks: dict[str, dict[str, Any]] | None = None
    schedule_id: UUID | None = None
    credentials: dict[str, dict[str, Any]] | None = None
    request_id: str | None = None


async def insert_begun(connection: Queryable, begun: Sequence[Begun]) -> set[UUID]:
    """Queue runs, each once. Returns the ids of those that were not there already."""
    rows = await connection.fetch(
        """
        WITH run AS (
            INSERT INTO runs (
                id, user_id, graph_id, graph_version, inputs, input_masks, schedule_id, credentials, request_id, status,
                limited
            )
            SELECT begun.*, 'QUEUED', EXISTS (
                SELECT FROM graph_settings
                WHERE graph_settings.graph_id = begun.graph_id AND max_concurrent_runs IS NOT NULL
            )
            FROM unnest(
                $1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::json[], $6::json[], $7::uuid[], $8::json[],
                $9::text[]
            ) AS begun (id, user_id, graph_id, graph_version, inputs, input_masks, schedule_id, credentials, request_id)
            ON CONFLICT (id) DO NOTHING RETURNING id, created_at
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, 1, 'run.queued', '{}', created_at FROM run
        )
        SELECT id, pg_notify('run_queued', id::text) FROM run
        """,
        [each.id for each in begun],
        [each.user_id for each in begun],
        [each.graph_id for each in begun],
        [each.graph_version for each in begun],
        [each.inputs for each in begun],
        [each.input_masks for each in begun],
        [each.schedule_id for each in begun],
        [each.credentials for each in begun],
        [each.request_id for each in begun],
    )
    return {row["id"] for row in rows}


def label(key: str, value: str) -> str:
    """A label as runs are found by it. No key has a colon."""
    return f"{key}:{value}"


async def insert_child(
    connection: Queryable,
    parent: StoredRun,
    node_run: int,
    id: UUID,
    graph_id: UUID,
    graph_version: int,
    inputs: dict[str, Any],
    input_masks: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Queue a run that a node of `parent` began, once: if it is there already, nothing happens.

    Nothing happens either if this attempt does not own the parent any more, or the parent is to be stopped.
    """
    await connection.execute(
        """
        WITH parent AS (
            SELECT id, priority, paused, user_id, credentials, request_id FROM runs
            WHERE id = $1 AND attempt = $2 AND status = 'RUNNING' AND NOT stop_requested FOR SHARE
        ), run AS (
            INSERT INTO runs (
                id, graph_id, graph_version, status, inputs, parent_run_id, parent_node_run, parent_waits, depth,
                input_masks, priority, paused, user_id, credentials, request_id
            )
            SELECT $4, $5, $6, 'QUEUED', $7, id, $3, true, $8, $9, priority, paused, user_id, credentials, request_id
            FROM parent
            ON CONFLICT (id) DO NOTHING RETURNING *
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, 1, 'run.queued', '{}', created_at FROM run
        )
        SELECT pg_notify('run_queued', id::text) FROM run
        """,
        parent.id,
        parent.attempt,
        node_run,
        id,
        graph_id,
        graph_version,
        inputs,
        parent.depth + 1,
        input_masks,
    )


async def newest_of_children(connection: Queryable, parent_id: UUID) -> dict[UUID, int]:
    """The number of the last event of each run that nodes of this run began."""
    rows = await connection.fetch(
        "SELECT id, (SELECT max(number) FROM run_events WHERE run_id = runs.id) AS newest"
        " FROM runs WHERE parent_run_id = $1",
        parent_id,
    )
    return {row["id"]: row["newest"] for row in rows}


async def has_open_children(connection: Queryable, parent_id: UUID) -> bool:
    """Whether any run that a node of this run began has not ended."""
    return await connection.fetchval(
        "SELECT EXISTS (SELECT FROM runs WHERE parent_run_id = $1 AND ended_at IS NULL)", parent_id
    )


async def get(connection: Queryable, id: UUID) -> StoredRun | None:
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM runs WHERE id = $1", id)
    return run_of(row) if row else None


async def get_many(connection: Queryable, ids: Sequence[UUID]) -> dict[UUID, StoredRun]:
    """Those of the runs that there are."""
    rows = await connection.fetch(f"SELECT {COLUMNS} FROM runs WHERE id = ANY($1::uuid[])", ids)
    return {row["id"]: run_of(row) for row in rows}


class Wanted(TypedDict, total=False):
    """Which runs of a user are looked for: those that meet all that is given."""

    graph_id: UUID | None
    statuses: Sequence[str] | None
    parent_run_id: UUID | None
    rerun_of: UUID | None
    labels: Sequence[str] | None
    started_after: datetime | None
    started_before: datetime | None
    schedule_id: UUID | None


# The runs of each status as there are indexes of them.
INDEXED = {
    "QUEUED": (
        "status = 'QUEUED' AND NOT paused AND NOT limited",
        "status = 'QUEUED' AND NOT paused AND limited",
        "status = 'QUEUED' AND paused",
    ),
    "RUNNING": ("status = 'RUNNING'",),
    "REVIEW": ("status = 'REVIEW'",),
    **{status: (f"status = '{status}'",) for status in sorted(ENDED)},
}
OPEN = " UNION ALL ".join(
    f"SELECT id FROM runs WHERE {part}" for status in INDEXED.keys() - ENDED for part in INDEXED[status]
)


async def page(
    connection: Queryable, user_id: UUID, *, limit: int, before: Place | None = None, **wanted: Unpack[Wanted]
) -> list[StoredRun]:
    """Runs, newest first, from just after the row at `before`."""
    parts, arguments = _listing(COLUMNS, user_id, before or START, **wanted)
    return [run_of(row) for row in await connection.fetch(_newest(parts, limit), *arguments)]


async def count(connection: Queryable, user_id: UUID, **wanted: Unpack[Wanted]) -> int:
    """How many there are: exactly, if they are few."""
    parts, arguments = _listing("runs.id", user_id, START, **wanted)
    return await total(connection, " UNION ALL ".join(parts), arguments, _newest(parts, lists.COUNTED + 1))


def _newest(parts: Sequence[str], limit: int) -> str:
    """Each on its own, and then all: only so is the order of an index seen of which the first columns are given."""
    newest = f"ORDER BY place DESC, id DESC LIMIT {limit:d}"
    found = " UNION ALL ".join(f"(SELECT * FROM ({part}) AS runs {newest})" for part in parts)
    return f"SELECT * FROM ({found}) AS runs {newest}"


def _listing(columns: str, user_id: UUID, before: Place, **wanted: Unpack[Wanted]) -> tuple[list[str], list[object]]:
    """Queries of their own for what is given, which together have all of it, each once: one for all would be planned
    for all, and read every run there is. What has labels is found, and ordered, by the first."""
    arguments: list[object] = [user_id, *before]
    tables = _tables(wanted.get("labels") or (), arguments)
    by, id = ("label_0", "run_id") if wanted.get("labels") else ("runs", "id")
    conditions = [f"{by}.user_id = $1 AND ({by}.created_at, {by}.{id}) < ($2, $3)"]
    for column, table in (("graph_id", by), ("parent_run_id", "runs"), ("rerun_of", "runs"), ("schedule_id", "runs")):
        if value := wanted.get(column):
            arguments.append(value)
            conditions.append(f"{table}.{column} = ${len(arguments)}")
    query = f"SELECT {columns}, {by}.created_at AS place FROM {tables} WHERE "
    started = _started(wanted, arguments, conditions)
    # Those below one run, or its reruns, are few, whatever PostgreSQL thinks: it is not to look for them among all from
    # the newest on.
    apart = " OFFSET 0" if wanted.get("parent_run_id") or wanted.get("rerun_of") else ""
    return [
        query + " AND ".join([*conditions, status, start]) + apart
        for status in _parts(wanted.get("statuses"))
        for start in started
    ], arguments


def _started(wanted: Wanted, arguments: list[object], conditions: list[str]) -> Sequence[str]:
    """Conditions of which each run that was started in time meets one. No run starts before it is created, and those
    that start much later have an index of their own: so the runs are not read from the newest to the oldest."""
    if before := wanted.get("started_before"):
        arguments.append(before)
        conditions.append(f"started_at < ${len(arguments)} AND runs.created_at < ${len(arguments)}")
    if (after := wanted.get("started_after")) is None:
        return ["true"]
    arguments.append(after)
    conditions.append(f"started_at >= ${len(arguments)}")
    bound = f"${len(arguments)} - interval '1 minute'"
    late = "started_at - runs.created_at > interval '1 minute'"
    return [f"runs.created_at >= {bound}", f"runs.created_at < {bound} AND {late}"]


def _tables(labels: Sequence[str], arguments: list[object]) -> str:
    """The runs that have all of these labels."""
    tables = "runs"
    for number, each in enumerate(labels):
        arguments.append(each)
        name = f"label_{number}"
        tables += f" JOIN run_labels AS {name} ON {name}.run_id = runs.id AND {name}.label = ${len(arguments)}"
    return tables


def _parts(statuses: Sequence[str] | None) -> Sequence[str]:
    if statuses is None:
        return ["true"]
    return [part for status in dict.fromkeys(statuses) for part in INDEXED.get(status, ())] or ["false"]


async def share(connection: Queryable, id: UUID, token: str) -> str | None:
    """Let everybody with the token see what the run puts out. Returns the token by which they already may, if so."""
    return await connection.fetchval(
        """
        WITH earlier AS (SELECT share_token FROM runs WHERE id = $1 FOR UPDATE)
        UPDATE runs SET share_token = coalesce(earlier.share_token, $2) FROM earlier WHERE id = $1
        RETURNING earlier.share_token
        """,
        id,
        token,
    )


async def unshare(connection: Queryable, id: UUID) -> None:
    await connection.execute("UPDATE runs SET share_token = NULL WHERE id = $1 AND share_token IS NOT NULL", id)


async def shared(connection: Queryable, token: str) -> StoredRun | None:
    """The run that this token lets everybody see."""
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM runs WHERE share_token = $1", token)
    return run_of(row) if row else None


_fields = itemgetter(*StoredRun.__slots__)


def run_of(row: Record) -> StoredRun:
    return StoredRun(*_fields(row))
