"""A web service for agents to talk to, and an agent that does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.journeys.environment import PATIENCE

STEP = "f66a3543-28d3-4ab5-8945-9b336371e2ce"
WEB_REQUEST = "6595ae1f-b924-42cb-9a41-551a0611c4b4"
INPUT = "c0a8e994-ebf1-4a9c-a4d8-89d09c86741b"
OUTPUT = "363ae599-353e-4804-937e-b2ee3cef3da4"


class Stub(ThreadingHTTPServer):
    """A web service that remembers what it was sent, and answers when `gate` is open."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), StubHandler)
        self.received: list[tuple[dict[str, str], object]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def address(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}/"

    @contextmanager
    def answering(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.gate.set()
            self.shutdown()
            thread.join()


class StubHandler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), json.loads(body)))
        self.server.gate.wait(PATIENCE)
        answer = b'{"ok": true}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


def requests_one_by_one(stub: Stub) -> dict:
    """For each item of the input, a request to the stub."""
    request = {"url": stub.address, "method": "POST", "body": {"n": 1}}
    return {
        "name": "requests",
        "nodes": [
            {"id": "items", "block_id": INPUT, "input_default": {"name": "items"}},
            {"id": "each", "block_id": STEP},
            {"id": "request", "block_id": WEB_REQUEST, "input_default": request},
            {"id": "answers", "block_id": OUTPUT, "input_default": {"name": "answers"}},
        ],
        "links": [
            {"source_id": "items", "source_name": "result", "sink_id": "each", "sink_name": "items"},
            {"source_id": "each", "source_name": "item", "sink_id": "request", "sink_name": "body_#_item"},
            {"source_id": "request", "source_name": "response", "sink_id": "answers", "sink_name": "value"},
        ],
    }
