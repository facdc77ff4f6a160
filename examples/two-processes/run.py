"""Runs the Procfile beside it with nothing but backend/process: `PYTHONPATH=. python examples/two-processes/run.py`."""

import os
import sys
from pathlib import Path

from honcho.environ import parse_procfile

from backend.process.supervisor import Supervisor

HERE = Path(__file__).parent

supervisor = Supervisor(welcome=lambda links: "Both run. Ctrl-C ends them.\n", as_json=False)
for name, command in parse_procfile((HERE / "Procfile").read_text()).processes.items():
    supervisor.add_process(name, command, env=dict(os.environ), cwd=str(HERE))
sys.exit(supervisor.run())
