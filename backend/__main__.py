"""Runs the Procfile: `python -m backend`."""

import os
import sys
from pathlib import Path

from backend.process.launch import CAN_FORK, ForkServer, Memory


def main() -> int:
    server = ForkServer() if CAN_FORK else None
    if server:  # it imports what the last start needed while we import what we need
        server.import_too(Memory(Path(os.environ.get("DATA_DIR", ".data"), "run", "imports")).all())
    from backend.app import run_procfile  # noqa: PLC0415 - see above
    from backend.settings import take_flags  # noqa: PLC0415

    take_flags("", sys.argv[1:])
    return run_procfile(server)


if __name__ == "__main__":
    sys.exit(main())
