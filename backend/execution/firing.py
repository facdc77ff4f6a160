"""Begins the runs of schedules when they are due: each time once, however many look, and whenever one of them dies.

Locking a schedule, queueing its run and moving it on to its next time are one transaction, and the id of the run
follows from the schedule and the time. What time it is, the database says.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from backend.errors import GraphNotRunnable, InvalidInputs
from backend.execution.credentials import Choice, look_up
from backend.execution.runnable import CheckedGraph, check_all, check_runnable, check_values, kept_credentials
from backend.execution.timetable import due, upcoming
from backend.store import graphs, runs, schedules
from backend.store.connection import PASSING, Pool, Queryable
from backend.store.identifiers import scheduled_run_id
from backend.store.listener import listen
from backend.store.runs import Begun
from backend.store.schedules import CHANGED, Advance, StoredSchedule

# Schedules that are advanced in one transaction.
BATCH = 100
# Seconds. Who has locked a schedule that is due will advance it, or has died; and clocks are set.
LOOK_AGAIN_AFTER = 1.0
LOOK_AT_LEAST_EVERY = 60.0

# How late a run may begin without having been missed.
IN_TIME = timedelta(minutes=1)
# Runs that are made up for of one schedule.
MAX_MISSED = 100

log = structlog.get_logger()

# The graphs of schedules: what can run, in which version, or why it cannot.
Graphs = Mapping[graphs.Wanted, tuple[CheckedGraph, int] | str]
# By the id of the schedule, where its graph can run.
Choices = Mapping[UUID, Choice]


async def keep_schedules(pool: Pool, dsn: str) -> None:
    """Begin what is due, again and again, until cancelled."""
    look = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(listen(dsn, (CHANGED,), lambda _channel, _payload: look.set()))
        while True:
            look.clear()
            pause = await _fire_or_wait(pool)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await look.wait()


async def _fire_or_wait(pool: Pool) -> float:
    try:
        left = await fire_all_due(pool)
    except (*PASSING, asyncpg.PostgresError) as error:
        log.warning("schedules have to wait for the database", error=str(error))
        return LOOK_AGAIN_AFTER
    if left is None:
        return LOOK_AT_LEAST_EVERY
    return min(left, LOOK_AT_LEAST_EVERY) if left > 0 else LOOK_AGAIN_AFTER


async def fire_all_due(pool: Pool) -> float | None:
    """Returns the seconds until something is due again; not above 0 if somebody else is at it."""
    while await fire_due(pool) >= BATCH:
        pass
    return await schedules.seconds_to_next(pool)


async def fire_due(pool: Pool) -> int:
    """Advance schedules that are due, in one transaction. Returns how many; from BATCH on there may be more."""
    async with pool.acquire() as connection, connection.transaction():
        now, found = await schedules.lock_due(connection, BATCH)
        if now is None:
            return 0
        due_now = [each for each in found if _is_due(each, now)]
        known = await _graphs(connection, due_now)
        choices = await _choices(connection, due_now, known)
        outcomes = [_outcome(each, now, known, choices) for each in found]
        await runs.insert_begun(connection, [run for _, begun in outcomes for run in begun])
        await schedules.advance(connection, [advance for advance, _ in outcomes])
    for advance, begun in outcomes:
        for run in begun:
            log.debug("a schedule began a run", run=str(run.id), request_id=run.request_id)
        if advance.error:
            log.warning("a schedule could not begin a run", schedule=str(advance.id), error=advance.error)
    return len(found)


def _is_due(schedule: StoredSchedule, now: datetime) -> bool:
    return schedule.next_run_at is not None and schedule.next_run_at <= now


async def _graphs(connection: Queryable, found: list[StoredSchedule]) -> Graphs:
    """Each graph is looked at once, however many schedules run it."""
    stored = await graphs.get_many_kept(connection, list({_graph(each) for each in found}))
    checked = await check_all(connection, list(stored.values()))
    looked: dict[graphs.Wanted, tuple[CheckedGraph, int] | str] = {}
    for (wanted, each), graph in zip(stored.items(), checked, strict=True):
        try:
            await check_runnable(connection, each, graph)
            looked[wanted] = graph, each.version
        except GraphNotRunnable as error:
            looked[wanted] = error.detail
    return looked


def _graph(schedule: StoredSchedule) -> graphs.Wanted:
    return schedule.user_id, schedule.graph_id, schedule.graph_version


async def _choices(connection: Queryable, found: list[StoredSchedule], known: Graphs) -> Choices:
    """The credentials of each user are looked at once, however many schedules have some."""
    choices: dict[UUID, Choice] = {}
    of_user: defaultdict[UUID, list[Choice]] = defaultdict(list)
    for schedule in found:
        graph = known.get(_graph(schedule))
        if isinstance(graph, tuple):
            choices[schedule.id] = choice = Choice(graph[0].slots, schedule.credentials, {})
            of_user[schedule.user_id].append(choice)
    for user_id, theirs in of_user.items():
        await look_up(connection, user_id, theirs)
    return choices


def _outcome(schedule: StoredSchedule, now: datetime, known: Graphs, choices: Choices) -> tuple[Advance, list[Begun]]:
    try:
        upcoming_times = upcoming(schedule.cron, schedule.timezone, now, 1)
        times = _times(schedule, now)
    except Exception as error:
        # A rule of this machine is missing, say a time zone: that is not to keep the other schedules from theirs.
        log.error("a schedule cannot be reckoned", schedule=str(schedule.id), exc_info=error)
        told = f"Its times cannot be told: {error!r}"
        return Advance(schedule.id, now + IN_TIME, now, None, told), []
    next_run_at = upcoming_times[0] if upcoming_times else None
    if not _is_due(schedule, now):
        # A one-shot is not due by the cron: it stays where it is.
        return Advance(schedule.id, next_run_at or schedule.next_run_at, None, None, None), []
    begun, error = _runs(schedule, times, known, choices)
    run_id = begun[-1].id if begun else None
    return Advance(schedule.id, next_run_at, times[-1] if times else None, run_id, error), begun


def _times(schedule: StoredSchedule, now: datetime) -> list[datetime]:
    """The times for which a run is to begin now."""
    first = schedule.next_run_at
    if first is None or first > now:
        return []
    wanted = MAX_MISSED if schedule.misfire == "all" else 1
    times = due(schedule.cron, schedule.timezone, first, now, wanted) if schedule.cron else [first]
    return [time for time in times if schedule.misfire != "skip" or now - time <= IN_TIME]


def _runs(
    schedule: StoredSchedule, times: list[datetime], known: Graphs, choices: Choices
) -> tuple[list[Begun], str | None]:
    """What begins; or nothing, and why."""
    missing = f"There is no graph {schedule.graph_id}, or not in this version."
    found = known.get(_graph(schedule), missing)
    if isinstance(found, str):
        return [], found
    graph, version = found
    try:
        check_values(graph, schedule.inputs, {})
        credentials = kept_credentials(choices[schedule.id])
    except InvalidInputs as error:
        return [], error.detail
    ids = [scheduled_run_id(schedule.id, time) for time in times]
    return [_begun(schedule, version, credentials, id) for id in ids], None


def _begun(schedule: StoredSchedule, version: int, credentials: dict[str, Any] | None, id: UUID) -> Begun:
    return Begun(
        id, schedule.user_id, schedule.graph_id, version, schedule.inputs, schedule_id=schedule.id,
        credentials=credentials, request_id=f"schedule-{schedule.id}",
    )  # fmt: skip
