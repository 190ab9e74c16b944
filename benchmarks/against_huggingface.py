"""Step time of a small Llama under ddp and zero3 against Trainer and Accelerate, on the same batches. Goal: 1.0.

All sides are fresh processes with the same model, initial values, batches, AdamW, schedule, clipping and threads, in
fp32; Trainer logs, evaluates and saves nothing. The harness's side has its defaults for what its plan leaves open.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import common

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TOOLS = ("trainer", "accelerate")


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(
        __doc__, repeats=5, workload="llama-mini", micro_batch_size=4, seconds=5.0, steps=20, strategies="ddp,zero3"
    )
    experiment, names = common.experiment(given.workload), given.strategies.split(",")
    threads = max(1, experiment.hardware.usable_cores // 2)
    sides: dict[str, Callable[[], common.Measured]] = {}
    for name in names:
        knobs = {"dp": 2, "data_parallel": name, "micro_batch_size": given.micro_batch_size}
        plan: dict[str, Any] = dict(experiment.plan(knobs))
        sides[name] = partial(common.inside, plan, "--workload", given.workload, "--seconds", str(given.seconds))
        for tool in TOOLS:
            settings = ["--tool", tool, "--strategy", name, "--workload", given.workload, "--plan", json.dumps(plan)]
            amount = ["--steps", str(given.steps), "--threads", str(threads)]
            command = [*TORCHRUN, str(common.HERE / "plain_huggingface.py"), *settings, *amount]
            sides[f"{name} {tool}"] = partial(common.measure, command)
    found = common.interleaved(sides, given.repeats)
    rows = []
    for name in names:
        ours = found[name]
        times = common.values(ours, "step_time_s")
        rows.append([f"{name}, harness", common.ms(times), "1", common.megabytes(ours), "0"])
        for tool in TOOLS:
            theirs = found[f"{name} {tool}"]
            ratio = common.ratio(times, common.values(theirs, "step_time_s"))
            cells = common.ms(common.values(theirs, "step_time_s")), ratio, common.megabytes(theirs)
            rows.append([f"{name}, {tool}", *cells, common.loss_difference(ours[0], theirs[0])])
    header = ("side", "step ms", "harness / this", "peak MB", "loss difference")
    common.print_table(header, rows, f"{threads} thread(s) a rank. Goal: at most 1.0.")


if __name__ == "__main__":
    main()
