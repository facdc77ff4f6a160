"""What happens, as Server-Sent Events: in a run, /runs/{id}/events; to the runs of a graph, or to all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT
from starlette.types import Send

from backend.api.access import Caller
from backend.api.graphs import existing_graph
from backend.api.problem import documented
from backend.api.runs import Reader, existing_run
from backend.api.services import Services, Use
from backend.errors import InvalidLastEventId, UnknownGraph, UnknownRun
from backend.store import changes
from backend.store.changes import Change, InvalidPosition, Position
from backend.store.connection import Queryable
from backend.store.events import Event
from backend.store.feed import Feed
from backend.store.watch import Watch

# Seconds of silence after which a comment tells proxies and clients that the stream still lives.
HEARTBEAT_EVERY = 10.0

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

router = APIRouter(prefix="/api/v2", tags=["runs"])


class EventStream(StreamingResponse):
    """A stream that lets go of its source at once when the client is gone, and lasts as long as it is `allowed`."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes], allowed: AbstractAsyncContextManager[None]) -> None:
        super().__init__(chunks, headers=HEADERS)
        self._chunks = chunks
        self._allowed = allowed

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._chunks), self._allowed:
            return await super().stream_response(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_json(run_id: UUID, event: Event) -> bytes:
    """An event as clients get it."""
    return orjson.dumps(
        {
            "number": event.number,
            "type": event.type,
            "run_id": str(run_id),
            "created_at": event.created_at,
            "data": event.data,
        }
    )


def sse_chunk(run_id: UUID, event: Event) -> bytes:
    """An event on the wire. JSON has no line breaks, so that `data` is one line."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.number, event.type.encode(), event_json(run_id, event))


ITEM: dict[str, Any] = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "the number of the event"},
        "event": {"type": "string", "description": "its type: run.started, node.output, …"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

EXAMPLE = (
    "id: 1\nevent: run.started\ndata: "
    '{"number": 1, "type": "run.started", "run_id": "01980000-0000-7000-8000-000000000002",'
    ' "created_at": "2026-01-31T12:00:00Z", "data": {"attempt": 1}}\n\n'
)
EVENTS = {"text/event-stream": {"itemSchema": ITEM, "example": EXAMPLE}}

LastEventId = Annotated[
    str | None,
    Header(description="number of the last event seen", json_schema_extra={"pattern": "^[0-9]{1,10}$"}),
]


@router.get(
    "/runs/{run_id:uuid}/events",
    operation_id="stream_run_events",
    summary="Follow a run as Server-Sent Events",
    status_code=200,
    response_class=EventStream,
    responses=documented(UnknownRun, InvalidLastEventId)
    | {200: {"description": "the events, to the run's last", "content": EVENTS}},
)
async def follow(
    run_id: UUID,
    use: Use,
    caller: Reader,
    last_event_id: LastEventId = None,
    after: Annotated[int, Query(ge=0, description="begin after this event; Last-Event-ID wins over it")] = 0,
) -> EventStream:
    """Every event once, in order, from the first (or after the one named) to the last, however late or often a client
    comes. The stream ends with the run; a client that goes away does not touch the run."""
    begin = after if last_event_id is None else _number(last_event_id)
    await existing_run(use.database, caller, run_id)
    return EventStream(_chunks(use.feed, run_id, begin), use.keys.open(caller))


def _number(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) <= 10):
        raise InvalidLastEventId("Last-Event-ID has to be the number of an event of this run, such as 7.")
    return int(last_event_id)


async def _chunks(feed: Feed, run_id: UUID, after: int) -> AsyncGenerator[bytes]:
    async with aclosing(feed.follow(run_id, after, idle=HEARTBEAT_EVERY)) as batches:
        async for batch in batches:
            yield b"".join([item.rendered for item in batch]) if batch else KEEPALIVE_COMMENT


def change_chunk(change: Change) -> bytes:
    """A change of a run on the wire."""
    data = orjson.dumps(
        {
            "number": change.number,
            "type": change.type,
            "run_id": str(change.run_id),
            "graph_id": str(change.graph_id),
            "graph_version": change.graph_version,
            "status": change.status,
            "created_at": change.created_at,
            "data": change.data,
        }
    )
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(change.position).encode(), change.type.encode(), data)


CHANGE_ITEM: dict[str, Any] = {
    **ITEM,
    "required": ["id"],
    "properties": {**ITEM["properties"], "id": {"type": "string", "description": "the place in the stream"}},
}
CHANGE_EXAMPLE = (
    "id: 1769860800000000.745:745:\nevent: run.completed\ndata: "
    '{"number": 9, "type": "run.completed", "run_id": "01980000-0000-7000-8000-000000000002",'
    ' "graph_id": "01980000-0000-7000-8000-000000000001", "graph_version": 1, "status": "COMPLETED",'
    ' "created_at": "2026-01-31T12:00:00Z", "data": {}}\n\n'
)
CHANGES = {
    200: {
        "description": "what becomes of the runs, without end",
        "content": {"text/event-stream": {"itemSchema": CHANGE_ITEM, "example": CHANGE_EXAMPLE}},
    }
}

# Printable, as PostgreSQL and HTTP can hold nothing else.
Place = Annotated[str | None, Header(description="the last `id` seen", json_schema_extra={"pattern": "^[0-9.:,a-f]+$"})]
AfterPlace = Annotated[str | None, Query(description="begin after this `id`; Last-Event-ID wins over it")]


@router.get(
    "/graphs/{graph_id}/events",
    operation_id="stream_graph_events",
    summary="Follow the runs of a graph as Server-Sent Events",
    status_code=200,
    response_class=EventStream,
    responses=documented(UnknownGraph, InvalidLastEventId) | CHANGES,
)
async def follow_graph(
    graph_id: UUID, use: Use, caller: Reader, last_event_id: Place = None, after: AfterPlace = None
) -> EventStream:
    """Every event that changes the state of a run, once, from now on, or after the `id` given: `run.queued`,
    `run.started`, `run.completed` and the like. What happens in a run is told by its own stream."""
    await existing_graph(use.database, caller.user_id, graph_id, None)
    return await _stream_of_changes(use, caller, graph_id, after if last_event_id is None else last_event_id)


@router.get(
    "/runs/events",
    operation_id="stream_events",
    summary="Follow all runs as Server-Sent Events",
    status_code=200,
    response_class=EventStream,
    responses=documented(InvalidLastEventId) | CHANGES,
)
async def follow_all(use: Use, caller: Reader, last_event_id: Place = None, after: AfterPlace = None) -> EventStream:
    """As the stream of a graph, of all graphs."""
    return await _stream_of_changes(use, caller, None, after if last_event_id is None else last_event_id)


async def _stream_of_changes(use: Services, caller: Caller, graph_id: UUID | None, after: str | None) -> EventStream:
    position = await changes.here(use.database) if after is None else await place_of(use.database, after)
    return EventStream(_change_chunks(use.feed.watch, caller.user_id, graph_id, position), use.keys.open(caller))


async def place_of(database: Queryable, text: str) -> Position:
    """The place with this id, or InvalidLastEventId."""
    try:
        return await changes.position_of(database, text)
    except InvalidPosition:
        raise InvalidLastEventId("Last-Event-ID has to be the `id` of an event of this stream.") from None


async def _change_chunks(
    watch: Watch, user_id: UUID, graph_id: UUID | None, position: Position
) -> AsyncGenerator[bytes]:
    # A block without data moves a client's last id, and is no event: so a stream that has told nothing is resumed, too.
    yield b"id: %b\n\n" % str(position).encode()
    async with aclosing(watch.follow(position, user_id, graph_id, idle=HEARTBEAT_EVERY)) as batches:
        async for position, batch in batches:
            if batch:
                yield b"".join([change_chunk(each) for each in batch])
            else:
                yield KEEPALIVE_COMMENT + b"id: %b\n\n" % str(position).encode()
