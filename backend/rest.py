"""Runs the REST API: `python -m backend.rest`."""

import sys

from backend.api.rest_api import AgentServer
from backend.app import run_processes
from backend.settings import take_flags


def main() -> int:
    return run_processes(AgentServer())


if __name__ == "__main__":
    take_flags("rest", sys.argv[1:])
    sys.exit(main())
