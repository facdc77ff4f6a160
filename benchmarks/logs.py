"""Lines per second from one talkative process to the reader of our output; beside it plain `honcho start`."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from benchmarks.commands import BIN, PATIENCE, ROOT, environment, running
from benchmarks.measure import Figure, progress, side_by_side

LINES = 200_000
# It stays: one that ends is started again by ours, and ends all of honcho's.
TALKER = f"""
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with open(1, "wb", closefd=False) as output:
        output.write(b"".join(b"line %06d %s\\n" % (number, b"x" * 57) for number in range({LINES})))
    signal.pause()
"""
LINE = re.compile(rb"line (\d{6}) x{57}\n")
LAST = b"line %06d %s\n" % (LINES - 1, b"x" * 57)


async def measure(rounds: int) -> list[Figure]:
    commands = {
        "this server's supervisor": [sys.executable, "-m", "backend"],
        "honcho start of the same Procfile": [BIN / "honcho", "start"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        folder = Path(path)
        (folder / "Procfile").write_text("talker: python talker.py\n")
        (folder / "talker.py").write_text(textwrap.dedent(TALKER))
        for number in range(1, rounds + 1):
            for name, command in commands.items():
                found[name].append(_once(command, folder))
                progress(f"round {number}: {name} {found[name][-1]:,.0f} lines/s")
    return side_by_side("lines/s", found)


def _once(command: list[str | Path], folder: Path) -> float:
    """Lines per second from the first one read to the last; all have to come, in their order."""
    variables = environment(PYTHONPATH=str(ROOT), DATA_DIR=str(folder / ".data"), APP_ENV="development")
    with running(command, folder, variables, subprocess.PIPE) as process:
        assert process.stdout
        pieces: list[bytes] = []
        began = ended = 0.0
        pipe = process.stdout.fileno()
        while select.select([pipe], [], [], PATIENCE)[0] and (piece := os.read(pipe, 1 << 20)):
            ended = time.perf_counter()
            pieces.append(piece)
            if not began and b"line " in piece:
                began = ended
            if LAST in b"".join(pieces[-2:]):
                break
    numbers = [int(number) for number in LINE.findall(b"".join(pieces))]
    assert numbers == list(range(LINES)), f"{command}: {len(numbers)} of {LINES} lines came, or not in their order"
    return LINES / (ended - began)
