"""However many runs are stored, no request and no step of the engine reads more than those it is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from backend.settings import Settings
from backend.store import (
    api_keys,
    changes,
    control,
    credentials,
    deliveries,
    events,
    executors,
    files,
    graph_settings,
    graphs,
    idempotency,
    large_values,
    lists,
    queue,
    retention,
    reviews,
    runs,
    schedules,
    statistics,
    triggers,
    waking,
    webhooks,
)
from backend.store.connection import Pool, open_pool
from backend.store.deliveries import Due, Result
from backend.store.events import Entry, Event
from backend.store.idempotency import Used
from backend.store.identifiers import new_id
from backend.store.schedules import Advance
from backend.store.users import DEFAULT_USER as USER
from tests.databases import execute, of_database

# Rows that one call may read, of the many that there are.
STORED, READ = 30_000, 1_500
COMMON, RARE, EXECUTOR, CHANGED = (UUID(int=number) for number in (1, 2, 3, 16))
PLACE = (datetime(2025, 1, 1, 6, tzinfo=UTC), UUID(int=0))


def run(number: int) -> UUID:
    return UUID(int=number)


EARLY = (datetime(2025, 1, 1, 0, 30, tzinfo=UTC), UUID(int=0))

# Of what there are fewer of: each of the same age and graph as the run with its id.
FEWER = 5_000
COMMON_TRIGGER = run(2)
FEW = f"""(
    SELECT id, graph_id, created_at, row_number() OVER (ORDER BY created_at)::text AS n
    FROM runs ORDER BY created_at LIMIT {FEWER}
) AS few"""

# All but the oldest 200 have ended, few of them otherwise than well; every tenth is below the one before it.
FILL = f"""
INSERT INTO graphs (id, version, name, document)
SELECT lpad(n::text, 32, '0')::uuid, 1, 'graph', '{{"nodes": []}}' FROM generate_series(1, 2) AS n;
INSERT INTO graphs (id, version, is_active, name, document, created_at, first_at)
SELECT lpad(to_hex(16 + CASE WHEN n <= {STORED} / 2 THEN n ELSE 0 END), 32, '0')::uuid, n,
    n <= {STORED} / 2 OR n = {STORED}, CASE WHEN n % 7000 = 0 THEN 'a rare name' ELSE 'agent ' || n END,
    '{{"nodes": []}}', time, time
FROM generate_series(1, {STORED}) AS n, LATERAL (SELECT timestamptz '2025-01-01' + n * interval '1 s' AS time) AS a;
UPDATE graphs SET deleted_at = '2025-01-01', is_active = false WHERE version BETWEEN 2000 AND 2100;
INSERT INTO executors (id, name) VALUES ('{EXECUTOR}', 'executor');
INSERT INTO runs (
    id, graph_id, graph_version, status, inputs, attempt, executor, created_at, ended_at, parent_run_id, depth,
    parent_waits, paused, limited, node_runs, wake_at, rerun_of, started_at, share_token
)
SELECT
    lpad(to_hex(n), 32, '0')::uuid, lpad(CASE WHEN n % 1000 = 0 THEN '2' ELSE '1' END, 32, '0')::uuid, 1, status,
    '{{}}', 1, CASE WHEN n <= 20 THEN '{EXECUTOR}'::uuid END, time,
    CASE WHEN n > 300 THEN time WHEN n > 200 THEN timestamptz '2020-01-01' END,
    CASE WHEN n > 200 AND n % 10 = 1 THEN lpad(to_hex(n - 1), 32, '0')::uuid END,
    CASE WHEN n % 10 = 1 THEN 1 ELSE 0 END, n % 5000 = 1, n BETWEEN 180 AND 200, n BETWEEN 160 AND 180, 1,
    CASE WHEN n BETWEEN 21 AND 30 THEN '2020-01-01'::timestamptz END,
    CASE WHEN n % 10 = 2 THEN lpad(to_hex(n - 2), 32, '0')::uuid END,
    time + CASE WHEN n % 1000 = 3 THEN interval '1 day' ELSE '1 s' END, n::text
FROM generate_series(1, {STORED}) AS n,
    LATERAL (SELECT timestamptz '2025-01-01' + n * interval '1 s' AS time, CASE
        WHEN n <= 30 THEN 'RUNNING' WHEN n <= 50 THEN 'REVIEW' WHEN n <= 200 THEN 'QUEUED'
        WHEN n % 7000 = 0 THEN 'FAILED' WHEN n % 8000 = 0 THEN 'TERMINATED' ELSE 'COMPLETED' END AS status) AS state;
INSERT INTO run_events (run_id, number, type, data, created_at)
SELECT id, number, type, '{{"node_run":1}}', created_at
FROM runs, (VALUES (1, 'run.queued'), (2, 'node.started')) AS event (number, type);
INSERT INTO run_values (run_id, hash, value) SELECT id, 'hash', '1' FROM runs;
INSERT INTO run_labels (user_id, graph_id, label, created_at, run_id)
SELECT user_id, graph_id, label, created_at, id FROM runs,
    (VALUES ('common:1', 1), ('rare:1', 1000)) AS given (label, each) WHERE share_token::int % each = 0;
INSERT INTO idempotency_keys (user_id, key, request, run_id) SELECT user_id, id::text, '', id FROM runs;
INSERT INTO reviews (id, run_id, node_run, node_id, instructions, editable, status, created_at)
SELECT id, id, 1, 'n', '', true,
    CASE status WHEN 'REVIEW' THEN 'WAITING' WHEN 'FAILED' THEN 'REJECTED' ELSE 'APPROVED' END, created_at
FROM runs;
INSERT INTO webhook_deliveries (id, user_id, webhook_id, lane, event_type, run_id, status, created_at, next_attempt_at)
SELECT id, user_id, hook, hook, 'run.completed', id, CASE WHEN due THEN 'PENDING' ELSE 'DELIVERED' END, created_at,
    CASE WHEN due THEN now() END
FROM runs, LATERAL (
    SELECT CASE WHEN depth = 0 THEN '{COMMON}' ELSE '{RARE}' END::uuid AS hook, status = 'COMPLETED' AS due
) AS delivery;
INSERT INTO schedules (
    id, user_id, name, graph_id, timezone, cron, inputs, credentials, misfire, next_run_at, created_at, paused
)
SELECT id, '{USER}', n, graph_id, 'UTC', '0 0 * * *', '{{}}', '{{}}', 'once',
    CASE WHEN n::int % 200 = 0 THEN timestamptz '2025-01-01' ELSE '2999-01-01' END, created_at, n::int % 400 = 0
FROM {FEW};
INSERT INTO triggers (id, user_id, name, graph_id, inputs, credentials, kind, sealed, created_at)
SELECT id, '{USER}', n, graph_id, '{{}}', '{{}}', 'none', '', created_at FROM {FEW};
INSERT INTO trigger_deliveries (id, trigger_id, key, headers, body, size, outcome, shown, created_at)
SELECT id, CASE WHEN n::int % 2 = 0 THEN '{COMMON_TRIGGER}' ELSE id END, n, '{{}}', '', 0, 'STARTED',
    n::int > {FEWER} - 200, now()
FROM {FEW};
INSERT INTO webhooks (id, user_id, url, events, run_id, lane, secret, created_at)
SELECT id, CASE WHEN n::int % 100 = 0 THEN '{USER}' ELSE id END, '', '{{run.failed}}',
    CASE WHEN n::int % 3 = 0 THEN id END, id, '', created_at FROM {FEW};
INSERT INTO credentials (id, user_id, provider, type, sealed, created_at)
SELECT id, '{USER}', CASE WHEN n::int % 1000 = 0 THEN 'rare' ELSE 'common' END, 'api_key', '', created_at FROM {FEW};
INSERT INTO files (id, user_id, name, content_type, size, content, created_at, expires_at)
SELECT id, '{USER}', n, 'text/plain', 1, id, created_at, CASE WHEN n::int % 1000 = 0 THEN now() END FROM {FEW};
INSERT INTO file_chunks (content, number, bytes) SELECT id, 0, 'x' FROM {FEW};
INSERT INTO api_keys (id, user_id, name, head, tail, hash, permissions, created_at)
SELECT id, '{USER}', n, '', '', n::bytea, CASE WHEN n = '1' THEN '{{ADMIN}}' ELSE '{{}}' END::text[], created_at
FROM {FEW};
ANALYZE;
"""


@pytest.fixture(scope="module")
def full(postgres: str, migrated_template: str) -> str:
    execute(postgres, f"CREATE DATABASE full_of_runs TEMPLATE {migrated_template}")
    dsn = of_database(postgres, "full_of_runs")
    execute(dsn, FILL)
    return dsn


@pytest.fixture(params=["auto", "force_generic_plan"])
async def pool(full: str, request: pytest.FixtureRequest) -> AsyncIterator[Pool]:
    """One connection; statements that are prepared, as ours are, come to be planned without their arguments."""
    async with await open_pool(Settings(database_url=full), size=1) as pool:
        await pool.execute(f"SET plan_cache_mode = {request.param}")
        yield pool


async def read(pool: Pool, doing: Awaitable[object]) -> int:
    """How many rows, or entries of indexes, are looked at."""
    before = await looked_at(pool)
    await doing
    return await looked_at(pool) - before


async def looked_at(pool: Pool) -> int:
    await pool.execute("SELECT pg_stat_force_next_flush()")
    return await pool.fetchval(
        "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)::int8"
        " + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)::int8"
    )


ENTRIES = [
    Entry(run(1), 1, [Event(3, "node.output", "{}", large=[("new", b"1")])]),
    Entry(run(2), 1, [Event(3, "run.completed", "{}")], "COMPLETED"),
]
VERSION = (datetime(2025, 1, 1, 6, tzinfo=UTC), CHANGED)


async def next_version(pool: Pool) -> None:
    await graphs.lock(pool, CHANGED)
    version = await graphs.newest_version(pool, CHANGED) or 0
    await graphs.deactivate(pool, [CHANGED])
    await graphs.activate(pool, await graphs.insert(pool, CHANGED, version + 1, "new", {"nodes": []}))


def attempted(id: UUID) -> Due:
    return Due(
        id, id, id, "", None, 0, PLACE[0], True, "", b"", None, PLACE[0],
        None, None, None, None, None, None, None, None,
    )  # fmt: skip


FAILED = Result(delivered=False, duration_ms=1)
NEW = Event(1, "run.queued", "{}")
ENGINE: dict[str, Callable[[Pool], Awaitable[object]]] = {
    "queue a run": lambda pool: runs.insert(pool, new_id(), COMMON, 1, {}),
    "queue a labelled run": lambda pool: runs.insert(pool, new_id(), COMMON, 1, {}, labels={"a": "b"}),
    "take a key": lambda pool: idempotency.take(pool, USER, str(run(5)), Used(b"", run(5))),
    "delete old keys": lambda pool: idempotency.delete_old(pool),
    "claim": lambda pool: queue.claim(pool, uuid4(), 10),
    "claim, few at a time": lambda pool: queue.claim(pool, uuid4(), 10, at_most=50),
    "write": lambda pool: events.append(pool, ENTRIES),
    "write of a new run": lambda pool: events.add(pool, new_id(), [NEW]),
    "hand over": lambda pool: queue.release(pool, EXECUTOR),
    "rescue": lambda pool: queue.rescue(pool),
    "told": lambda pool: control.told(pool, EXECUTOR),
    "wake": lambda pool: waking.wake(pool, run(40)),
    "wake those that are due": lambda pool: waking.wake_due(pool),
    "woken": lambda pool: waking.woken(pool, EXECUTOR),
    "take what is woken": lambda pool: waking.take_waking(pool, EXECUTOR, run(1)),
    "parents to tell": lambda pool: waking.parents_to_tell(pool),
    "news of those below": lambda pool: runs.newest_of_children(pool, run(1000)),
    "is anything below": lambda pool: runs.has_open_children(pool, run(1000)),
    "ask for a review": lambda pool: reviews.lock_run(pool, USER, run(31)),
    "heartbeat": lambda pool: executors.beat(pool, EXECUTOR, "executor"),
    "claim deliveries": lambda pool: deliveries.claim(pool, {COMMON: 7}, in_lane=8, at_most=100),
    "schedules that are due": lambda pool: schedules.lock_due(pool, 100),
    "next schedule": lambda pool: schedules.seconds_to_next(pool),
    "move schedules on": lambda pool: schedules.advance(pool, [Advance(run(9), None, None, None, None)]),
    "use a credential": lambda pool: credentials.use(pool, USER, run(9)),
    "credentials for a run": lambda pool: credentials.candidates(pool, USER, [run(9)], ["rare"]),
    "file at its name": lambda pool: files.lock_name(pool, USER, "77"),
    "files that expire": lambda pool: files.delete_expired(pool),
    "result of a delivery": lambda pool: deliveries.record(
        pool, attempted(run(400)), Result(delivered=False, duration_ms=1)
    ),
    "next delivery": lambda pool: deliveries.next_due(pool),
    "delete what is deleted": lambda pool: retention.delete_graphs(pool),
    "the graph that a run calls": lambda pool: graphs.name_for(pool, run(1000), COMMON, 1),
    "delete what is old": lambda pool: retention.delete_old(pool, 1000),
    "what is beyond the newest": lambda pool: pool.fetch(retention.BEYOND, COMMON, 100),
}
# Of the last of the runs that have ended.
SEEN = changes.Position("3:3:", datetime(2025, 1, 1, 8, 30, tzinfo=UTC))


async def between(pool: Pool, *whose: UUID) -> object:
    return await changes.between(pool, SEEN, (await changes.here(pool)).seen, *whose)


REQUESTS: dict[str, Callable[[Pool], Awaitable[object]]] = {
    "documents of graphs": lambda pool: graphs.documents(pool, {(CHANGED, 20_000), (COMMON, 1)}),
    "graphs": lambda pool: graphs.page(pool, USER, limit=21),
    "graphs of a name": lambda pool: graphs.page(pool, USER, limit=21, name="RARE n"),
    "number of graphs of a name": lambda pool: graphs.count(pool, USER, "RARE n"),
    "search": lambda pool: graphs.search(pool, USER, ["name", "rar"], 200),
    "number of graphs": lambda pool: graphs.count(pool, USER),
    "graphs that are called": lambda pool: graphs.kept(pool, USER, {(CHANGED, 20_000), (COMMON, 1), (uuid4(), 1)}),
    "graph of a user": lambda pool: graphs.get_kept(pool, USER, CHANGED),
    "versions": lambda pool: graphs.versions(pool, CHANGED, limit=21),
    "versions from a place on": lambda pool: graphs.versions(pool, CHANGED, limit=21, before=VERSION),
    "number of versions": lambda pool: graphs.count_versions(pool, CHANGED),
    "next version": lambda pool: next_version(pool),
    "newest versions of those below": lambda pool: graphs.newest_included(pool, COMMON, [CHANGED]),
    "delete a graph": lambda pool: graphs.delete(pool, RARE),
    "run": lambda pool: runs.get(pool, run(1000)),
    "shared run": lambda pool: runs.shared(pool, "77"),
    "share": lambda pool: runs.share(pool, run(77), "token"),
    "unshare": lambda pool: runs.unshare(pool, run(77)),
    "what became of all": lambda pool: between(pool),
    "what became of the runs of a graph": lambda pool: between(pool, USER, RARE),
    "what became of some": lambda pool: changes.of_runs(pool, {run(n): 0 for n in range(1, 50)}, SEEN.seen, "9:9:"),
    "what is at some places": lambda pool: changes.read(pool, [(PLACE[0], run(n), 1) for n in range(1, 50)]),
    "runs": lambda pool: runs.get_many(pool, [run(n) for n in range(1, 50)]),
    "its outputs": lambda pool: events.outputs_of(pool, [run(1000)]),
    "its events": lambda pool: events.read(pool, run(1000)),
    "its large values": lambda pool: large_values.put_back(pool, run(9), [{large_values.APART: {"value": "hash"}}]),
    "its node runs": lambda pool: statistics.node_run_counts(pool, [run(1000)]),
    "node runs of a page": lambda pool: statistics.node_run_counts(pool, [run(n) for n in range(1, 2000, 20)]),
    "metrics": lambda pool: statistics.unfinished_runs(pool),
    "oldest in the queue": lambda pool: statistics.oldest_queued(pool),
    "stop": lambda pool: control.request_stop(pool, run(100)),
    "pause": lambda pool: control.pause(pool, run(101)),
    "resume": lambda pool: control.resume(pool, run(101)),
    "delete a run": lambda pool: retention.delete_run(pool, run(2000)),
    "limit of a graph": lambda pool: graph_settings.limit_runs(pool, COMMON, 5),
    "deliveries": lambda pool: deliveries.page(pool, RARE, limit=21),
    "deliveries in a status": lambda pool: deliveries.page(pool, COMMON, limit=21, before=PLACE, status="FAILED"),
    "webhook": lambda pool: webhooks.get(pool, USER, run(100)),
    "webhooks": lambda pool: webhooks.page(pool, USER, limit=21),
    "number of webhooks": lambda pool: webhooks.count(pool, USER),
    "schedule": lambda pool: schedules.get(pool, run(9), USER),
    "schedules": lambda pool: schedules.page(pool, USER, limit=21, before=EARLY),
    "schedules of a graph": lambda pool: schedules.page(pool, USER, limit=21, graph_id=RARE),
    "number of schedules": lambda pool: schedules.count(pool, USER),
    "number of schedules of a graph": lambda pool: schedules.count(pool, USER, RARE),
    "runs of a schedule": lambda pool: runs.page(pool, USER, limit=21, schedule_id=run(9)),
    "number of runs of a schedule": lambda pool: runs.count(pool, USER, schedule_id=run(9)),
    "trigger": lambda pool: triggers.get(pool, run(9), USER),
    "triggers": lambda pool: triggers.page(pool, USER, limit=21, before=EARLY),
    "triggers of a graph": lambda pool: triggers.page(pool, USER, limit=21, graph_id=RARE),
    "number of triggers": lambda pool: triggers.count(pool, USER),
    "number of triggers of a graph": lambda pool: triggers.count(pool, USER, RARE),
    "what came before": lambda pool: triggers.seen(pool, COMMON_TRIGGER, "4", timedelta(days=3)),
    "what came lately": lambda pool: triggers.deliveries(pool, COMMON_TRIGGER, limit=21),
    "number of what came lately": lambda pool: triggers.count_deliveries(pool, COMMON_TRIGGER),
    "credentials": lambda pool: credentials.page(pool, USER, limit=21, before=EARLY),
    "credentials of a provider": lambda pool: credentials.page(pool, USER, limit=21, provider="rare"),
    "number of credentials": lambda pool: credentials.count(pool, USER),
    "number of credentials of a provider": lambda pool: credentials.count(pool, USER, "rare"),
    "file": lambda pool: files.get(pool, USER, run(9)),
    "files": lambda pool: files.page(pool, USER, limit=21, before=PLACE),
    "number of files": lambda pool: files.count(pool, USER),
    "delete a file": lambda pool: files.delete(pool, USER, run(11)),
    "key": lambda pool: api_keys.by_secret(pool, "agpt_none"),
    "keys": lambda pool: api_keys.page(pool, USER, limit=21, before=EARLY),
    "number of keys": lambda pool: api_keys.count(pool, USER),
    "reviews of a run": lambda pool: reviews.of_run(pool, run(1000)),
}


@pytest.mark.parametrize("calls", [ENGINE, REQUESTS], ids=["engine", "requests"])
async def test_each_reads_what_it_is_about(
    pool: Pool, calls: dict[str, Callable[[Pool], Awaitable[object]]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lists, "COUNTED", 100)
    looked = {name: await read(pool, call(pool)) for name, call in calls.items()}
    assert {name: rows for name, rows in looked.items() if rows >= READ} == {}


STATUSES = [
    None,
    ["COMPLETED"],
    ["COMPLETED", "FAILED"],
    ["FAILED"],
    ["TERMINATED", "QUEUED"],
    ["RUNNING", "REVIEW"],
    ["INCOMPLETE"],
]


@pytest.mark.parametrize("parent", [None, run(1000)], ids=["any", "parent"])
@pytest.mark.parametrize("graph", [None, COMMON, RARE, uuid4()], ids=["any", "common", "rare", "unknown"])
async def test_a_list_of_runs_reads_its_page(
    pool: Pool, graph: UUID | None, parent: UUID | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lists, "COUNTED", 100)
    for statuses in STATUSES:
        wanted: runs.Wanted = {"graph_id": graph, "statuses": statuses, "parent_run_id": parent}
        for before in (None, PLACE):
            assert await read(pool, runs.page(pool, USER, limit=21, before=before, **wanted)) < READ, (
                statuses,
                before,
            )
        assert await read(pool, runs.count(pool, USER, **wanted)) < READ, statuses


FILTERS: list[runs.Wanted] = [
    {"rerun_of": run(1000)},
    {"labels": ["common:1"]},
    {"labels": ["rare:1"]},
    {"labels": ["none:1"]},
    {"labels": ["rare:1", "common:1"]},
    {"labels": ["common:1"], "graph_id": RARE},
    {"labels": ["common:1"], "statuses": ["FAILED"]},
    {"started_after": datetime(2025, 1, 1, 8, tzinfo=UTC)},
    {"started_after": datetime(2025, 1, 1, 1, tzinfo=UTC)},
    {"started_after": datetime(2025, 1, 1, 8, tzinfo=UTC), "graph_id": COMMON, "statuses": ["COMPLETED"]},
    {"started_before": datetime(2025, 1, 1, 1, tzinfo=UTC)},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
async def test_a_list_of_some_runs_reads_its_page(pool: Pool, wanted: runs.Wanted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lists, "COUNTED", 100)
    for before in (None, PLACE):
        assert await read(pool, runs.page(pool, USER, limit=21, before=before, **wanted)) < READ, before
    assert await read(pool, runs.count(pool, USER, **wanted)) < READ


@pytest.mark.parametrize("run_id", [None, run(1000)], ids=["any", "run"])
async def test_a_list_of_reviews_reads_its_page(pool: Pool, run_id: UUID | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lists, "COUNTED", 100)
    for status in (None, "WAITING", "APPROVED", "REJECTED"):
        wanted: reviews.Wanted = {"run_id": run_id, "status": status}
        for before in (None, PLACE):
            assert await read(pool, reviews.page(pool, USER, limit=21, before=before, **wanted)) < READ, (
                status,
                before,
            )
        assert await read(pool, reviews.count(pool, USER, **wanted)) < READ, status


async def test_a_list_has_all_that_is_wanted_newest_first(pool: Pool):
    every = [row["id"] for row in await pool.fetch("SELECT id FROM runs ORDER BY created_at DESC, id DESC LIMIT 50")]
    assert [run.id for run in await runs.page(pool, USER, limit=50)] == every
    listed = [run for status in runs.INDEXED for run in await runs.page(pool, USER, limit=50, statuses=[status])]
    newest = sorted(listed, key=lambda run: (run.created_at, run.id), reverse=True)[:50]
    assert await runs.page(pool, USER, limit=50, statuses=[*runs.INDEXED, "INCOMPLETE"]) == newest
    assert [run.id for run in newest] == every


async def test_few_are_counted_and_many_are_estimated(pool: Pool, monkeypatch: pytest.MonkeyPatch):
    stored = await pool.fetchval("SELECT count(*) FROM runs")
    assert await runs.count(pool, USER) == pytest.approx(stored, rel=0.2)
    failed = await pool.fetchval("SELECT count(*) FROM runs WHERE status = 'FAILED'")
    assert await runs.count(pool, USER, statuses=["FAILED"]) == failed
    assert await runs.count(pool, USER, statuses=["INCOMPLETE"]) == 0
    monkeypatch.setattr(lists, "COUNTED", 2 * stored)
    assert await runs.count(pool, USER) == stored
    await pool.execute("CREATE TEMPORARY TABLE new AS SELECT FROM generate_series(1, 50)")
    monkeypatch.setattr(lists, "COUNTED", 10)
    assert await lists.total(pool, "SELECT FROM new WHERE random() < 2 AND random() < 2 AND random() < 2", ()) >= 11
