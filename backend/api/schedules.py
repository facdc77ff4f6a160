"""The resource /schedules: runs that begin by themselves, again and again by a cron expression, or once at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Self, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from backend.api.access import Caller, Permission, needs
from backend.api.body import JsonRoute
from backend.api.graphs import existing_graph
from backend.api.middleware import request_id
from backend.api.openapi import links
from backend.api.paging import After, Limit, Page, cut
from backend.api.problem import documented
from backend.api.run_model import CredentialReference, References, RunDetail, kept_references
from backend.api.runs import read_detail
from backend.api.services import Use
from backend.errors import (
    GraphNotRunnable,
    InvalidCursor,
    InvalidInputs,
    TooLarge,
    UnknownGraph,
    UnknownSchedule,
    Unprocessable,
    UnsupportedMediaType,
)
from backend.execution.runnable import check_values, chosen_credentials, runnable
from backend.execution.timetable import MAX_CRON, WrongTime, check_cron, check_zone, moment, upcoming
from backend.graphs.graph import MAX_VERSION
from backend.store import runs, schedules
from backend.store.connection import Queryable
from backend.store.graphs import StoredGraph
from backend.store.identifiers import new_id
from backend.store.runs import Begun
from backend.store.schedules import Given, StoredSchedule

# Of the times to come that a schedule shows.
SHOWN = 5
MAX_SHOWN = 100
# The last year of a time that can be told in every time zone, and of which PostgreSQL and Python know.
LAST_YEAR = 9000

router = APIRouter(prefix="/api/v2/schedules", tags=["schedules"], route_class=JsonRoute)

Reader = Annotated[Caller, needs(Permission.READ_SCHEDULE)]
Writer = Annotated[Caller, needs(Permission.WRITE_SCHEDULE)]
Starter = Annotated[Caller, needs(Permission.WRITE_SCHEDULE, Permission.RUN_AGENT)]


def _checked(check: Callable[[str], None], code: str) -> AfterValidator:
    def validate(value: str) -> str:
        try:
            check(value)
        except WrongTime as error:
            raise PydanticCustomError(code, "{reason}", {"reason": str(error)}) from None  # pyright: ignore[reportArgumentType]
        return value

    return AfterValidator(validate)


Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Every morning"])]
GraphVersion = Annotated[int, Field(ge=1, le=MAX_VERSION, description="null: the active one, each time")]
Cron = Annotated[
    str,
    Field(
        max_length=MAX_CRON,
        description="five fields: minute, hour, day of month, month, day of week",
        examples=["30 9 * * MON-FRI"],
    ),
    _checked(check_cron, "invalid_cron"),
]
RunAt = Annotated[
    datetime,
    Field(
        description="for one run: the time (ISO 8601); without an offset it is by the clock of `timezone`",
        examples=[None],
    ),
]
Zone = Annotated[
    str,
    Field(max_length=100, description="IANA time zone", examples=["Europe/Berlin"]),
    _checked(check_zone, "unknown_timezone"),
]
Misfire = Annotated[
    Literal["once", "skip", "all"],
    Field(
        description="what is made up for of times that passed while no scheduler ran: one run, none, or all (up to 100)"
    ),
]
Inputs = Annotated[
    dict[str, Any],
    Field(
        description="as at the start of a run; upstream's `input_data` is taken, too",
        validation_alias=AliasChoices("inputs", "input_data"),
        examples=[{"Input": 5}],
    ),
]
Credentials = Annotated[
    References,
    Field(
        description="one of your credentials for each slot of the graph's `credentials_input_schema`;"
        " `credentials_inputs` is taken, too",
        validation_alias=AliasChoices("credentials", "credentials_inputs"),
        examples=[{}],
    ),
]


class CreateSchedule(BaseModel):
    """When runs of a graph begin, and with what. Either `cron` or `run_at` is needed."""

    name: Name
    graph_id: UUID
    graph_version: GraphVersion | None = None
    cron: Cron | None = None
    run_at: RunAt | None = None
    timezone: Zone = "UTC"
    inputs: Inputs = {}
    credentials: Credentials = {}
    misfire: Misfire = "once"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.cron is None) == (self.run_at is None):
            raise PydanticCustomError("cron_or_run_at", "give either `cron` or `run_at`")
        return self


class ChangeSchedule(BaseModel):
    """What is to be different; what is left out stays."""

    # A factory, unlike a default, is not shown: there is none.
    name: Name = Field(default_factory=str)
    graph_version: GraphVersion | None = None
    cron: Cron | None = None
    run_at: RunAt | None = None
    timezone: Zone = Field(default_factory=str)
    inputs: Inputs = Field(default_factory=dict[str, Any])
    credentials: Credentials = Field(default_factory=dict[str, CredentialReference])
    misfire: Misfire = Field(default_factory=lambda: "once")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.cron is not None and self.run_at is not None:
            raise PydanticCustomError("cron_or_run_at", "give either `cron` or `run_at`")
        return self


class Schedule(BaseModel):
    """A schedule as it is listed."""

    id: UUID
    name: str
    graph_id: UUID
    graph_version: int | None
    cron: str | None
    run_at: datetime | None
    timezone: str
    inputs: dict[str, Any]
    credentials: References
    misfire: Literal["once", "skip", "all"]
    status: Literal["ACTIVE", "PAUSED", "ENDED"] = Field(description="ENDED: nothing is to come any more")
    next_run_time: datetime | None = Field(description="in UTC; null while it is paused, and when it has ended")
    last_run_time: datetime | None = Field(description="the time for which it was last due")
    last_run_id: UUID | None = Field(description="the last run that it began")
    last_error: str | None = Field(description="why it began no run when it was last due; it goes on trying")
    created_at: datetime


class Time(BaseModel):
    """A time to come."""

    utc: datetime
    local: datetime = Field(description="by the clock of the schedule's time zone")


class ScheduleDetail(Schedule):
    """A schedule with the next times it is due."""

    next_run_times: list[Time] = Field(description=f"up to {SHOWN}")


class NextTimes(BaseModel):
    """When a schedule is due next."""

    next_run_times: list[Time]


IN_BODY = documented(TooLarge, UnsupportedMediaType, GraphNotRunnable, InvalidInputs)


@router.post(
    "",
    status_code=201,
    operation_id="create_schedule",
    summary="Have runs begin by themselves",
    responses=documented(UnknownGraph)
    | IN_BODY
    | {
        201: {
            "links": links("schedule_id", "get_schedule", "pause_schedule", "fire_schedule", "delete_schedule"),
            "description": "it is stored",
        }
    },
)
async def create(body: CreateSchedule, use: Use, caller: Starter, response: Response) -> ScheduleDetail:
    """What would be refused at the start of a run is refused now."""
    stored = await existing_graph(use.database, caller.user_id, body.graph_id, body.graph_version)
    credentials = kept_references(body.credentials)
    await _check(use.database, caller, stored, body.inputs, credentials)
    now = await schedules.now(use.database)
    given = body.model_dump() | {"credentials": credentials} | _timing(body.cron, body.run_at, body.timezone, now)
    schedule = await schedules.insert(use.database, new_id(), caller.user_id, **cast("Given", given))
    response.headers["Location"] = f"{router.prefix}/{schedule.id}"
    return _detail(schedule, now)


async def _check(
    database: Queryable, caller: Caller, stored: StoredGraph, inputs: dict[str, Any], credentials: dict[str, Any]
) -> dict[str, Any] | None:
    """What is kept of the credentials with a run. Raises an ApiError if none could begin."""
    checked = await runnable(database, stored)
    check_values(checked, inputs, {})
    return await chosen_credentials(database, caller.user_id, checked.slots, credentials, {})


def _timing(cron: str | None, run_at: datetime | None, zone: str, now: datetime) -> Given:
    """When it is due, and next. Raises Unprocessable for a time that is over or does not exist."""
    if run_at is None:
        return {"next_run_at": next(iter(upcoming(cron, zone, now, 1)), None)}
    if run_at.year > LAST_YEAR:
        raise _wrong_run_at("time_too_late", f"the year has to be {LAST_YEAR} at most")
    try:
        due = moment(run_at, zone)
    except (WrongTime, OverflowError) as error:
        raise _wrong_run_at("no_such_time", str(error)) from None
    if due <= now:
        raise _wrong_run_at("time_is_over", f"{due.isoformat()} is over: it is {now.isoformat(timespec='seconds')}")
    return {"run_at": due, "next_run_at": due}


def _wrong_run_at(code: str, message: str) -> Unprocessable:
    return Unprocessable(f"/run_at: {message}", errors=[{"pointer": "/run_at", "code": code, "message": message}])


@router.get(
    "", operation_id="list_schedules", summary="List the schedules, newest first", responses=documented(InvalidCursor)
)
async def list_(
    use: Use,
    caller: Reader,
    after: After,
    limit: Limit = 20,
    graph_id: Annotated[UUID | None, Query(description="only schedules of this graph")] = None,
) -> Page[Schedule]:
    rows = await schedules.page(use.database, caller.user_id, limit=limit + 1, before=after, graph_id=graph_id)
    shown, next_cursor = cut(rows, limit)
    total = await schedules.count(use.database, caller.user_id, graph_id)
    return Page(items=[Schedule(**_fields(each)) for each in shown], next_cursor=next_cursor, total_count=total)


@router.get(
    "/{schedule_id:uuid}",
    operation_id="get_schedule",
    summary="Show a schedule",
    responses=documented(UnknownSchedule),
)
async def show(schedule_id: UUID, use: Use, caller: Reader) -> ScheduleDetail:
    return _detail(await _existing(use.database, schedule_id, caller), await schedules.now(use.database))


@router.get(
    "/{schedule_id:uuid}/next",
    operation_id="list_next_run_times",
    summary="Show when it is due next",
    responses=documented(UnknownSchedule),
)
async def next_(
    schedule_id: UUID, use: Use, caller: Reader, count: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = SHOWN
) -> NextTimes:
    schedule = await _existing(use.database, schedule_id, caller)
    return NextTimes(next_run_times=_times(schedule, await schedules.now(use.database), count))


@router.patch(
    "/{schedule_id:uuid}",
    operation_id="change_schedule",
    summary="Change a schedule",
    responses=documented(UnknownSchedule, UnknownGraph) | IN_BODY,
)
async def change(schedule_id: UUID, body: ChangeSchedule, use: Use, caller: Starter) -> ScheduleDetail:
    """`cron` takes the place of `run_at`, and the other way round."""
    changes = body.model_dump(exclude_unset=True)
    if "credentials" in changes:
        changes["credentials"] = kept_references(body.credentials)
    async with use.database.acquire() as connection, connection.transaction():
        before = await _existing(connection, schedule_id, caller, lock=True)
        now = await schedules.now(connection)
        if changes.keys() & {"graph_version", "inputs", "credentials"}:
            version = changes.get("graph_version", before.graph_version)
            stored = await existing_graph(connection, caller.user_id, before.graph_id, version)
            inputs, credentials = (changes.get(name, getattr(before, name)) for name in ("inputs", "credentials"))
            await _check(connection, caller, stored, inputs, credentials)
        if changes.keys() & {"cron", "run_at", "timezone"}:
            changes |= _changed_timing(before, body, now)
        changed = await schedules.change(connection, schedule_id, caller.user_id, **cast("Given", changes))
    assert changed is not None
    return _detail(changed, now)


def _changed_timing(before: StoredSchedule, body: ChangeSchedule, now: datetime) -> Given:
    zone = body.timezone if "timezone" in body.model_fields_set else before.timezone
    if body.run_at is not None:
        return {"cron": None, **_timing(None, body.run_at, zone, now)}
    cron = body.cron or before.cron
    if cron is None:
        # The time of a one-shot stays what it is by any clock.
        return {"cron": None, "run_at": before.run_at}
    return {"cron": cron, "run_at": None, **_timing(cron, None, zone, now)}


@router.delete(
    "/{schedule_id:uuid}",
    status_code=204,
    operation_id="delete_schedule",
    summary="Delete a schedule",
    responses=documented(UnknownSchedule),
)
async def delete(schedule_id: UUID, use: Use, caller: Writer) -> None:
    """The runs that it began stay, and go on."""
    if not await schedules.delete(use.database, schedule_id, caller.user_id):
        raise _unknown(schedule_id)


@router.post(
    "/{schedule_id:uuid}/pause",
    operation_id="pause_schedule",
    summary="Pause a schedule",
    responses=documented(UnknownSchedule),
)
async def pause(schedule_id: UUID, use: Use, caller: Writer) -> ScheduleDetail:
    """It begins nothing until it is resumed; by itself it never is."""
    paused = await schedules.change(use.database, schedule_id, caller.user_id, paused=True)
    if paused is None:
        raise _unknown(schedule_id)
    return _detail(paused, await schedules.now(use.database))


@router.post(
    "/{schedule_id:uuid}/resume",
    operation_id="resume_schedule",
    summary="Resume a schedule that was paused",
    responses=documented(UnknownSchedule),
)
async def resume(schedule_id: UUID, use: Use, caller: Starter) -> ScheduleDetail:
    """Times that passed meanwhile are not made up for. A schedule that is not paused is answered as it is."""
    async with use.database.acquire() as connection, connection.transaction():
        schedule = await _existing(connection, schedule_id, caller, lock=True)
        now = await schedules.now(connection)
        if schedule.paused:
            to_come = next((time.utc for time in _times(schedule, now, 1)), None)
            resumed = await schedules.change(connection, schedule_id, caller.user_id, paused=False, next_run_at=to_come)
            schedule = resumed or schedule
    return _detail(schedule, now)


@router.post(
    "/{schedule_id:uuid}/fire",
    status_code=202,
    operation_id="fire_schedule",
    summary="Begin a run of a schedule now",
    responses=documented(UnknownSchedule, UnknownGraph, GraphNotRunnable, InvalidInputs)
    | {202: {"links": links("run_id", "get_run", "stop_run"), "description": "the run is queued"}},
)
async def fire(schedule_id: UUID, use: Use, caller: Starter, response: Response) -> RunDetail:
    """When it is due next stays as it is. A schedule that is paused or has ended can be fired, too."""
    schedule = await _existing(use.database, schedule_id, caller)
    stored = await existing_graph(use.database, caller.user_id, schedule.graph_id, schedule.graph_version)
    credentials = await _check(use.database, caller, stored, schedule.inputs, schedule.credentials)
    run = Begun(
        new_id(), caller.user_id, stored.id, stored.version, schedule.inputs, schedule_id=schedule.id,
        credentials=credentials, request_id=request_id(),
    )  # fmt: skip
    await runs.insert_begun(use.database, [run])
    response.headers["Location"] = f"/api/v2/runs/{run.id}"
    return await read_detail(use.database, caller, run.id)


async def _existing(database: Queryable, id: UUID, caller: Caller, *, lock: bool = False) -> StoredSchedule:
    schedule = await schedules.get(database, id, caller.user_id, lock=lock)
    if schedule is None:
        raise _unknown(id)
    return schedule


def _unknown(id: UUID) -> UnknownSchedule:
    return UnknownSchedule(f"There is no schedule {id}.")


def _detail(schedule: StoredSchedule, now: datetime) -> ScheduleDetail:
    # Of one that is paused: when it would be due.
    return ScheduleDetail(**_fields(schedule), next_run_times=_times(schedule, now, SHOWN))


def _fields(schedule: StoredSchedule) -> dict[str, Any]:
    fields = {name: getattr(schedule, name) for name in StoredSchedule.__slots__ if name in Schedule.model_fields}
    status = "PAUSED" if schedule.paused else "ENDED" if schedule.next_run_at is None else "ACTIVE"
    next_run_time = None if schedule.paused else schedule.next_run_at
    return fields | {"status": status, "next_run_time": next_run_time, "last_run_time": schedule.last_run_at}


def _times(schedule: StoredSchedule, now: datetime, count: int) -> list[Time]:
    to_come = upcoming(schedule.cron, schedule.timezone, now, count)
    if schedule.run_at and schedule.next_run_at and schedule.run_at > now:
        to_come = [schedule.run_at]
    zone = ZoneInfo(schedule.timezone)
    return [Time(utc=time, local=time.astimezone(zone)) for time in to_come]
