"""The peer of `api`: three routes as anybody writes them with FastAPI, which make the queries of ours by hand and
answer with the same JSON. No login, no middleware, no checks; the database is that of DATABASE_URL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from asyncpg import Record
from fastapi import FastAPI, HTTPException, Request

from backend.api.paging import Page
from backend.api.run_model import RunDetail, RunSummary
from backend.api.starts import StartRun
from backend.execution.history import fold
from backend.settings import Settings
from backend.store.connection import Pool, open_pool
from backend.store.events import Event
from backend.store.identifiers import node_run_id
from backend.store.users import DEFAULT_USER

COUNTS = """
    WITH RECURSIVE tree AS (
        SELECT id AS top, id, node_runs FROM runs WHERE id = ANY($1::uuid[])
        UNION ALL
        SELECT top, runs.id, runs.node_runs FROM runs JOIN tree ON parent_run_id = tree.id
    )
    SELECT top, sum(coalesce(node_runs, (
        SELECT count(DISTINCT data->>'node_run') FROM run_events WHERE run_id = tree.id AND type = 'node.started'
    ))) AS count FROM tree GROUP BY top
"""


@asynccontextmanager
async def _with_pool(app: FastAPI) -> AsyncGenerator[None]:
    async with await open_pool(Settings.load()) as app.state.pool:
        yield


app = FastAPI(lifespan=_with_pool)


@app.get("/runs/{run_id}")
async def show(run_id: UUID, request: Request) -> RunDetail:
    pool: Pool = request.app.state.pool
    run = await pool.fetchrow(f"SELECT * FROM runs JOIN ({COUNTS}) AS counts ON top = id", [run_id])
    if run is None or run["user_id"] != DEFAULT_USER:
        raise HTTPException(404)
    rows = await pool.fetch(
        "SELECT number, type, data, created_at FROM run_events WHERE run_id = $1 ORDER BY number", run_id
    )
    return _detail(run, int(run["count"]), [Event(*row) for row in rows])


@app.get("/runs")
async def list_(request: Request, limit: int = 20) -> Page[RunSummary]:
    pool: Pool = request.app.state.pool
    runs = await pool.fetch(
        "SELECT * FROM runs WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2", DEFAULT_USER, limit + 1
    )
    shown = runs[:limit]
    counts = {row["top"]: int(row["count"]) for row in await pool.fetch(COUNTS, [run["id"] for run in shown])}
    total = await pool.fetchval(
        "SELECT count(*) FROM (SELECT FROM runs WHERE user_id = $1 LIMIT 10001) AS counted", DEFAULT_USER
    )
    next_cursor = str(shown[-1]["id"]) if len(runs) > limit else None
    items = [RunSummary(**_summary(run, counts[run["id"]])) for run in shown]
    return Page(items=items, next_cursor=next_cursor, total_count=total)


@app.post("/graphs/{graph_id}/runs", status_code=202)
async def start(graph_id: UUID, body: StartRun, request: Request) -> RunDetail:
    pool: Pool = request.app.state.pool
    graph = await pool.fetchrow(
        "SELECT * FROM graphs WHERE id = $1 AND user_id = $2 AND is_active AND deleted_at IS NULL",
        graph_id,
        DEFAULT_USER,
    )
    if graph is None:
        raise HTTPException(404)
    run = await pool.fetchrow(
        """
        WITH run AS (
            INSERT INTO runs (id, graph_id, graph_version, status, inputs, user_id)
            VALUES ($1, $2, $3, 'QUEUED', $4, $5) RETURNING *
        ), event AS (
            INSERT INTO run_events (run_id, number, type, data, created_at)
            SELECT id, 1, 'run.queued', '{}', created_at FROM run
        )
        SELECT run.*, pg_notify('run_queued', run.id::text) FROM run
        """,
        uuid4(),
        graph_id,
        graph["version"],
        body.inputs,
        DEFAULT_USER,
    )
    assert run is not None
    return _detail(run, 0, [])


def _detail(run: Record, count: int, events: list[Event]) -> RunDetail:
    history = fold(events)
    return RunDetail.model_validate(
        _summary(run, count)
        | {
            "outputs": history.outputs,
            "node_executions": [_node_execution(run["id"], each) for each in history.node_runs.values()],
            "warnings": history.warnings,
            "failure": history.failure,
            "never_ran": history.never_ran,
            "waiting": history.waiting,
        }
    )


def _node_execution(run_id: UUID, node_run: Any) -> dict[str, Any]:
    return {"id": node_run_id(run_id, node_run.number)} | {each: getattr(node_run, each) for each in node_run.__slots__}


def _summary(run: Record, count: int) -> dict[str, Any]:
    ended, began, parent = run["ended_at"], run["started_at"], run["parent_run_id"]
    return dict(run) | {
        "duration_seconds": (ended - began).total_seconds() if ended and began else None,
        "node_exec_count": count,
        "parent_node_exec_id": node_run_id(parent, run["parent_node_run"]) if parent else None,
        "labels": run["labels"] or {},
        "is_shared": run["share_token"] is not None,
        "credentials_inputs": run["credentials"] or {},
    }
