"""Wall time of `python -m harness --help`, against an interpreter that does nothing. Goal: under 0.5 s."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import common


def timed(*command: str) -> Callable[[], common.Measured]:
    """A side that runs the interpreter with these arguments."""
    environment = common.environment()

    def side() -> common.Measured:
        begin = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
        return {"wall_s": time.perf_counter() - begin}

    return side


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, repeats=11)
    commands = {"python -m harness --help": ("-m", "harness", "--help"), "python -c pass": ("-c", "pass")}
    found = common.interleaved({name: timed(*command) for name, command in commands.items()}, given.repeats)
    walls = {name: common.values(runs, "wall_s") for name, runs in found.items()}
    rows = [[name, common.ms(wall), common.ms([min(wall)]), common.ms([max(wall)])] for name, wall in walls.items()]
    common.print_table(("command", "median ms", "fastest ms", "slowest ms"), rows, "Goal: 500 ms.")


if __name__ == "__main__":
    main()
