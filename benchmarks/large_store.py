"""How long pages take to build from a results folder of 100,000 trials and 10 million step rows.

The folder is synthetic (benchmarks/synthetic.py). Each command is a fresh process; its whole wall time and its largest
resident set are given.

Goals: `report` of one sweep under 5 s, `compare` under 20 s and under 2 GiB.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import synthetic


def timed(arguments: list[str], folder: str) -> tuple[float, float]:
    """(wall time in s, largest resident set in GiB) of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *arguments], cwd=folder, stdout=subprocess.DEVNULL, env=common.environment()
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


def main() -> None:
    """Build the folder, time the commands, print the table."""
    given = common.arguments(__doc__, sweeps=50, trials=2000, steps=56, repeats=3, files=200)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.build(Path(folder) / "results", given.sweeps, given.trials, given.steps)
        commands = {
            "report of one sweep": ["report", "synthetic-0000"],
            "compare, HTML": ["compare"],
            "compare, JSON": ["compare", "--format", "json"],
        }
        table = []
        for name, arguments in commands.items():
            runs = [timed(arguments, folder) for _ in range(given.repeats)]
            wall, memory = (statistics.median(values) for values in zip(*runs, strict=True))
            table.append([name, f"{wall:.2f}", f"{memory:.2f}"])
    with tempfile.TemporaryDirectory() as folder:
        synthetic.build(Path(folder) / "results", 5, given.trials, given.steps, files=given.files)
        wall, memory = timed(["store", "compact"], folder)
        table.append([f"store compact, 5 sweeps of {given.files} files", f"{wall:.2f}", f"{memory:.2f}"])
    note = (
        f"{given.sweeps * given.trials:,} synthetic trials in {given.sweeps} sweeps, {given.steps} steps of two ranks."
    )
    common.print_table(("command", "wall s", "memory GiB"), table, note)


if __name__ == "__main__":
    main()
