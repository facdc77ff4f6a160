"""Runs an executor, which runs graphs; any number of them: `python -m backend.executor`."""

import sys

from backend.app import run_processes
from backend.execution.executor import Executor
from backend.settings import take_flags


def main() -> int:
    return run_processes(Executor())


if __name__ == "__main__":
    take_flags("executor", sys.argv[1:])
    sys.exit(main())
