"""Runs the Procfile: `python -m backend`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    signal.signal(signal.SIGINT, _leave)  # until the supervisor takes it: imports are no place for a traceback
    from pathlib import Path  # noqa: PLC0415

    from backend.process.launch import CAN_FORK, ForkServer, Memory  # noqa: PLC0415

    memory = Memory(Path(os.environ.get("DATA_DIR", ".data"), "run", "imports"))
    server = ForkServer.by_fork(memory) if CAN_FORK else None
    if server:  # it imports what the last start needed, while this process imports the project
        server.import_too(memory.all())
    from backend.app import run_procfile  # noqa: PLC0415 - none of the project before the fork
    from backend.settings import take_flags  # noqa: PLC0415

    take_flags("", sys.argv[1:])
    return run_procfile(server)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
