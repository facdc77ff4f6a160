"""Runs the WebSocket server, live events for clients: `python -m backend.websocket`."""

import sys

from backend.api.websocket_api import WebsocketServer
from backend.app import run_processes
from backend.settings import take_flags


def main() -> int:
    return run_processes(WebsocketServer())


if __name__ == "__main__":
    take_flags("websocket", sys.argv[1:])
    sys.exit(main())
