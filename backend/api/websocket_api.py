"""The WebSocket server: the protocol by which AutoGPT's clients follow runs, and the process that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field, ValidationError

from backend.api import health, problem
from backend.api.access import Caller, Permission, needs
from backend.api.authentication import Keys
from backend.api.live import Message, follow_graph, follow_run
from backend.api.metrics import Metrics
from backend.api.middleware import surround
from backend.api.problem import failure
from backend.api.services import Services, Use
from backend.api.serving import serve_with_feed
from backend.api.streams import event_json, place_of
from backend.errors import ApiError
from backend.process import sockets
from backend.process.process import AsyncAppProcess
from backend.settings import Settings
from backend.store import runs
from backend.store.connection import PASSING, open_pool
from backend.store.feed import Feed

# Messages, and their bytes, that may wait for a slow client; then what it follows waits for it, in the database.
QUEUE_LENGTH = 32
QUEUE_BYTES = 256 * 1024
# Bytes of a message; one that would be longer comes without its values.
MAX_MESSAGE = 8 * 1024 * 1024
VALUES = ("inputs", "outputs", "input_data", "output_data")
# Runs and graphs that one connection may follow at once.
MAX_SUBSCRIPTIONS = 100

router = APIRouter()

log = structlog.get_logger()


class WebsocketServer(AsyncAppProcess):
    """Serves live events on WEBSOCKET_SERVER_HOST and WEBSOCKET_SERVER_PORT."""

    name = "websocket"

    async def serve(self, stopping: asyncio.Event) -> None:
        settings = Settings.load()
        listener = sockets.listen(
            settings.websocket_server_host, settings.websocket_server_port, setting="WEBSOCKET_SERVER_PORT"
        )
        pool = await open_pool(settings)
        feed = Feed(pool, event_json)
        services = Services(settings, pool, feed, Metrics(), Keys(pool, settings))
        app = build_app(services)
        on_ready = partial(self.ready, address=f"{sockets.url('ws', listener)}/ws")
        await serve_with_feed(app, listener, stopping, on_ready, services)
        await pool.close()


def build_app(services: Services) -> FastAPI:
    """The server as an ASGI app."""
    app = FastAPI(title="Agent server, live events", openapi_url=None, redirect_slashes=False)
    app.state.services = services
    app.include_router(health.router)
    app.include_router(router)
    surround(app, services, host=services.settings.websocket_server_host)
    problem.install(app)
    return app


@router.get("/")
@router.get("/health")
async def healthy() -> dict[str, str]:
    return {"status": "healthy"}


class Request(BaseModel):
    """What a client sends."""

    method: Literal["subscribe_graph_execution", "subscribe_graph_executions", "unsubscribe", "heartbeat"]
    data: dict[str, Any] | None = None


class RunSubscription(BaseModel):
    """`last_event_id` is the `event_id` of the last message seen; left out, all there is comes first."""

    graph_exec_id: UUID
    last_event_id: int | None = Field(default=None, ge=0)

    def channel(self, user_id: UUID) -> str:
        return f"{user_id}|graph_exec#{self.graph_exec_id}"


class GraphSubscription(BaseModel):
    """`last_event_id` is the last `event_id` seen that was not null."""

    graph_id: UUID
    last_event_id: str | None = None

    def channel(self, user_id: UUID) -> str:
        return f"{user_id}|graph#{self.graph_id}|executions"


class Refused(Exception):
    """A message that cannot be followed; the text is for the client."""


@router.websocket("/ws")
async def connect(socket: WebSocket, use: Use, caller: Annotated[Caller, needs(Permission.READ_RUN)]) -> None:
    await socket.accept()
    async with use.keys.open(caller):
        return await Client(socket, use, caller.user_id).serve()
    await socket.close(4003, "The API key is not valid any more.")


class Client:
    """One connection: what it follows, and the messages that wait for it."""

    def __init__(self, socket: WebSocket, services: Services, user_id: UUID) -> None:
        self._socket = socket
        self._services = services
        self._user_id = user_id
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_LENGTH)
        self._waiting = 0
        self._room = asyncio.Condition()
        self._following: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Answer until the connection is gone."""
        tasks = [asyncio.create_task(self._receive_forever()), asyncio.create_task(self._send_forever())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks += self._following.values()
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, WebSocketDisconnect):
                    log.error("a WebSocket connection failed", exc_info=ended)

    async def _receive_forever(self) -> None:
        while (received := await self._socket.receive())["type"] == "websocket.receive":
            await self._put(await self._answer(received.get("text") or received.get("bytes") or b""))

    async def _send_forever(self) -> None:
        while True:
            raw = await self._outgoing.get()
            await self._socket.send_text(raw.decode())
            async with self._room:
                self._waiting -= len(raw)
                self._room.notify()

    async def _put(self, message: Message) -> None:
        # Written down at once, as the state it shows goes on changing.
        raw = _encoded(message)
        async with self._room:
            await self._room.wait_for(lambda: not self._waiting or self._waiting + len(raw) <= QUEUE_BYTES)
            self._waiting += len(raw)
        await self._outgoing.put(raw)

    async def _answer(self, text: str | bytes) -> Message:
        method = "error"
        try:
            request = Request.model_validate(orjson.loads(text))
            method = request.method
            return {"method": method, "success": True, **await self._do(method, request.data or {})}
        except orjson.JSONDecodeError as error:
            reason = f"The message is not JSON: {error}."
        except ValidationError as error:
            reason = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'message'}: {each['msg']}" for each in error.errors()
            )
        except Refused as error:
            reason = str(error)
        except PASSING as error:
            reason = failure(error).detail
        return {"method": "error", "success": False, "error": reason, "data": {"method": method}}

    async def _do(self, method: str, data: dict[str, Any]) -> Message:
        match method:
            case "heartbeat":
                return {"data": "pong"}
            case "subscribe_graph_execution":
                return await self._subscribe_run(RunSubscription.model_validate(data))
            case "subscribe_graph_executions":
                return await self._subscribe_graph(GraphSubscription.model_validate(data))
            case _:
                kind = GraphSubscription if "graph_id" in data else RunSubscription
                return self._unsubscribe(kind.model_validate(data).channel(self._user_id))

    async def _subscribe_run(self, wanted: RunSubscription) -> Message:
        database, feed = self._services.database, self._services.feed
        run = await runs.get(database, wanted.graph_exec_id)
        if run is None or run.user_id != self._user_id:
            raise Refused(f"There is no run {wanted.graph_exec_id}.")
        return self._follow(wanted.channel(self._user_id), follow_run(database, feed, run, wanted.last_event_id))

    async def _subscribe_graph(self, wanted: GraphSubscription) -> Message:
        database, feed, after = self._services.database, self._services.feed, wanted.last_event_id
        try:
            position = await place_of(database, after) if after is not None else None
        except ApiError as error:
            raise Refused(error.detail) from None
        news = follow_graph(database, feed, self._user_id, wanted.graph_id, position)
        return self._follow(wanted.channel(self._user_id), news)

    def _follow(self, channel: str, messages: AsyncGenerator[Message]) -> Message:
        self._unsubscribe(channel)
        if len(self._following) >= MAX_SUBSCRIPTIONS:
            raise Refused(
                f"One connection follows {MAX_SUBSCRIPTIONS} at most: unsubscribe from one, or connect again."
            )
        task = asyncio.create_task(self._forward(channel, messages))
        self._following[channel] = task
        task.add_done_callback(lambda _: self._forget(channel, task))
        return {"channel": channel}

    def _unsubscribe(self, channel: str) -> Message:
        if task := self._following.pop(channel, None):
            task.cancel()
        return {"channel": channel}

    def _forget(self, channel: str, task: asyncio.Task[None]) -> None:
        if self._following.get(channel) is task:
            del self._following[channel]

    async def _forward(self, channel: str, messages: AsyncGenerator[Message]) -> None:
        try:
            async with aclosing(messages):
                async for message in messages:
                    await self._put({"channel": channel, **message})
        except Exception as error:
            reason = f"{failure(error).detail} Subscribe again with last_event_id to go on."
            await self._put({"method": "error", "success": False, "channel": channel, "error": reason})


def _encoded(message: Message) -> bytes:
    raw = orjson.dumps(message, default=str)  # `str` is for the UUIDs of the database driver
    if len(raw) <= MAX_MESSAGE:
        return raw
    data: Message = {name: {} if name in VALUES else value for name, value in message["data"].items()}
    return orjson.dumps({**message, "data": {**data, "truncated": True}}, default=str)
