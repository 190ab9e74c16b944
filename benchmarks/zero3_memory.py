"""What a rank of zero3 holds at its peak, beside plain FSDP2 and DeepSpeed's stage 3. Goal: at most 1.0.

DeepSpeed releases parameters after forward and backward, as zero3 and FSDP2 do. With `--before FOLDER`, a checkout of
an earlier version, that version's zero3 is one more side. Needs the extra `bench`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import common
from against_deepspeed import RELEASING


def earlier(folder: Path, plan: dict[str, Any], *options: str) -> common.Measured:
    """One trial of a plan by another version of the harness."""
    script = folder / "benchmarks" / "inside.py"
    command = [sys.executable, str(script), "--plan", json.dumps(plan), *options]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(
        __doc__,
        repeats=3,
        workload="gpt:blocks=8,width=1024,heads=16,seq=32",
        micro_batch_size=4,
        seconds=1.0,
        before="",
    )
    from harness.machine.hardware import detect

    options = ("--workload", given.workload, "--seconds", str(given.seconds))
    threads = max(1, detect().usable_cores // 2)
    base = {"dp": 2, "micro_batch_size": given.micro_batch_size}
    plan = {**base, "data_parallel": "zero3"}

    def theirs(option: str, value: str, **more: Any) -> partial[common.Measured]:
        return partial(common.plain, [option, value, "--threads", str(threads)], {**base, **more}, *options)

    sides = {
        "plain FSDP2": theirs("--strategy", "zero3"),
        "DeepSpeed stage 3, releasing": theirs("--deepspeed-stage", "3", zero_optimization=RELEASING),
        "zero3": partial(common.inside, plan, *options),
    }
    if given.before:
        sides["zero3, an earlier version"] = partial(earlier, Path(given.before).resolve(), plan, *options)
    found = common.interleaved(sides, given.repeats)
    other = found["plain FSDP2"]
    rows = []
    for name, runs in found.items():
        peaks = common.values(runs, "peak_memory_bytes"), common.values(other, "peak_memory_bytes")
        against = ["1", "0"] if runs is other else [common.ratio(*peaks), common.loss_difference(runs[0], other[0])]
        rows.append([name, common.megabytes(runs), *against])
    model = next(iter(common.experiment(given.workload).workloads.values())).facts()
    weights = 4 * model.parameters / 1e6
    common.print_table(
        ("side", "peak MB", "ratio", "loss difference"),
        rows,
        f"Peak of the worst rank above its start. Weights: {weights:.0f} MB; a rank's half of weights, gradients and "
        f"moments: {2 * weights:.0f} MB.",
    )


if __name__ == "__main__":
    main()
