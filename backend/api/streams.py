"""The live events of a run, as Server-Sent Events: /runs/{id}/events."""

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

from backend.api.problem import documented
from backend.api.runs import Reader, existing_run
from backend.api.services import Use
from backend.errors import InvalidLastEventId, UnknownRun
from backend.store.events import Event
from backend.store.feed import Feed

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
    | {200: {"description": "the events, to the run's last", "content": {"text/event-stream": {"itemSchema": ITEM}}}},
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
