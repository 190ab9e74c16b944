"""Step time of every strategy inside the harness against a script without it, with the same knobs. Goal: at most 1.03.

Both sides are fresh processes that run the same steps on the same batches, with the same number of threads and the
same settings of the memory allocator (--default-malloc leaves the plain side glibc's own).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.sweeps.experiment import Experiment

PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("ddp", {"data_parallel": "ddp"}),
    "zero1-torch": ("zero1-torch", {"data_parallel": "zero1", "zero1_impl": "torch"}),
    "zero1": ("zero1", {"data_parallel": "zero1"}),
    "zero2": ("zero2", {"data_parallel": "zero2"}),
    "zero3": ("zero3", {"data_parallel": "zero3"}),
    "tensor_parallel": ("tensor_parallel", {"tp": 2}),
    "sequence_parallel": ("tensor_parallel", {"tp": 2, "sequence_parallel": True}),
    "gpipe": ("pipeline", {"pp": 2, "pp_schedule": "gpipe", "micro_batch_size": 2}),
    "1f1b": ("pipeline", {"pp": 2, "pp_schedule": "1f1b", "micro_batch_size": 2}),
    "interleaved": ("pipeline", {"pp": 2, "pp_schedule": "interleaved", "micro_batch_size": 2}),
}
"""Row -> (--strategy of plain.py, knobs)."""


def complete_plan(experiment: Experiment, given: common.Settings, micro_batch_size: int) -> dict[str, object]:
    """Every knob of a plan on two ranks."""
    return dict(experiment.plan({"micro_batch_size": micro_batch_size, **given}))


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(
        __doc__, repeats=5, strategies=",".join(PLANS), workload="gpt-nano", micro_batch_size=4, seconds=2.5,
        default_malloc=False,
    )  # fmt: skip
    experiment, names = common.experiment(given.workload), given.strategies.split(",")
    threads = max(1, experiment.hardware.usable_cores // 2)
    plans = {name: complete_plan(experiment, PLANS[name][1], given.micro_batch_size) for name in names}
    options = ("--workload", given.workload, "--seconds", str(given.seconds))
    sides: dict[str, Callable[[], common.Measured]] = {}
    for name, plan in plans.items():
        what = ["--strategy", PLANS[name][0], "--threads", str(threads)]
        sides[f"{name} harness"] = partial(common.inside, plan, *options)
        sides[f"{name} plain"] = partial(common.plain, what, plan, *options, default_malloc=given.default_malloc)
    found = common.interleaved(sides, given.repeats)
    rows = []
    for name in names:
        ours, theirs = found[f"{name} harness"], found[f"{name} plain"]
        times = common.values(ours, "step_time_s"), common.values(theirs, "step_time_s")
        losses = common.loss_difference(ours[0], theirs[0])
        peaks = common.megabytes(ours), common.megabytes(theirs)
        rows.append([name, common.ms(times[0]), common.ms(times[1]), common.ratio(*times), *peaks, losses])
    header = ("strategy", "harness ms", "plain ms", "ratio", "harness MB", "plain MB", "loss difference")
    plain = found[f"{names[0]} plain"][0]
    malloc = json.dumps(plain["malloc"]) if plain["malloc"] else "the allocator's own settings"
    common.print_table(header, rows, f"{plain['threads']} thread(s) a rank; plain side's malloc: {malloc}. Goal: 1.03.")


if __name__ == "__main__":
    main()
