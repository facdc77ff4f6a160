"""Runs the scheduler, which looks after runs: `python -m backend.scheduler`."""

import sys

from backend.app import run_processes
from backend.execution.scheduler import Scheduler
from backend.settings import take_flags


def main() -> int:
    return run_processes(Scheduler())


if __name__ == "__main__":
    take_flags("scheduler", sys.argv[1:])
    sys.exit(main())
