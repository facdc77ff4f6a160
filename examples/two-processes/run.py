"""Runs the Procfile beside it with nothing but backend/process: `PYTHONPATH=. python examples/two-processes/run.py`."""

import os
import sys
from pathlib import Path

from backend.process import procfile
from backend.process.procfile import Command
from backend.process.supervisor import Supervisor

os.chdir(Path(__file__).parent)
supervisor = Supervisor(lambda links: "Both run. Ctrl-C ends them.\n")
for name, line in procfile.read(Path("Procfile")).items():
    supervisor.add(Command(name, line, ours=False, env=dict(os.environ)))
sys.exit(supervisor.run())
