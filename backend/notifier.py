"""Runs the notifier, which tells webhooks what happened; any number of them: `python -m backend.notifier`."""

import sys

from backend.app import run_processes
from backend.execution.notifier import Notifier
from backend.settings import take_flags


def main() -> int:
    return run_processes(Notifier())


if __name__ == "__main__":
    take_flags("notifier", sys.argv[1:])
    sys.exit(main())
