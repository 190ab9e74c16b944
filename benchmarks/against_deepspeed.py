"""zero1, zero2, zero3 in the harness against DeepSpeed's stages 1, 2, 3, and ddp against plain DDP. Goal: at most 1.0.

DeepSpeed runs with its own defaults; model, batches, optimizer, clipping, micro-batch, threads and malloc settings are
the same on both sides, which the losses of the first steps show. Needs the extra `bench`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import common

BUCKETS_MB = (2.0, 8.0, 25.0)
RELEASING = {"stage3_max_reuse_distance": 0, "stage3_max_live_parameters": 0}
"""By default DeepSpeed keeps a small model's parameters between forward and backward, as reshard_after_forward=false
does; with this it frees them, as reshard_after_forward=true does."""
Family = dict[str, Callable[[], common.Measured]]


def families(options: tuple[str, ...], threads: int, micro_batch_size: int) -> Iterator[tuple[str, Family]]:
    """(name, its sides), the side that the others are compared with first."""
    base = {"dp": 2, "micro_batch_size": micro_batch_size}

    def theirs(option: str, value: str, **more: Any) -> Callable[[], common.Measured]:
        return partial(common.plain, [option, value, "--threads", str(threads)], {**base, **more}, *options)

    def ours(kind: str, variants: list[dict[str, Any]]) -> Family:
        plans = {label(kind, knobs): {**base, "data_parallel": kind, **knobs} for knobs in variants}
        return {name: partial(common.inside, plan, *options) for name, plan in plans.items()}

    buckets: list[dict[str, Any]] = [{"bucket_mb": size} for size in BUCKETS_MB]
    gathers: list[dict[str, Any]] = [
        {"prefetch": depth, "reshard_after_forward": reshard}
        for reshard, depth in itertools.product((True, False), (0, 1, 2))
    ]
    yield "ddp", {"DDP, its defaults": theirs("--strategy", "ddp"), **ours("ddp", buckets)}
    variants = {"zero1": buckets, "zero2": buckets, "zero3": gathers}
    for stage, (kind, knobs) in enumerate(variants.items(), start=1):
        family = {f"DeepSpeed stage {stage}": theirs("--deepspeed-stage", str(stage)), **ours(kind, knobs)}
        if stage == 3:
            name = "DeepSpeed stage 3, releasing"
            family[name] = theirs("--deepspeed-stage", "3", zero_optimization=RELEASING)
        yield kind, family


def label(kind: str, knobs: Mapping[str, Any]) -> str:
    """A side's name in the table."""
    return f"{kind} {' '.join(f'{name}={json.dumps(value)}' for name, value in knobs.items())}"


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(
        __doc__, repeats=5, workload="gpt-nano", micro_batch_size=4, seconds=2.5, families="ddp,zero1,zero2,zero3"
    )
    from harness.machine.hardware import detect

    options = ("--workload", given.workload, "--seconds", str(given.seconds))
    threads = max(1, detect().usable_cores // 2)
    every = families(options, threads, given.micro_batch_size)
    chosen = {name: sides for name, sides in every if name in given.families.split(",")}
    found = common.interleaved({k: v for sides in chosen.values() for k, v in sides.items()}, given.repeats)
    rows = []
    for sides in chosen.values():
        other = found[next(iter(sides))]
        for name in sides:
            runs = found[name]
            times = common.values(runs, "step_time_s"), common.values(other, "step_time_s")
            against = ["1", "0"] if runs is other else [common.ratio(*times), common.loss_difference(runs[0], other[0])]
            rows.append([name, common.ms(times[0]), against[0], common.megabytes(runs), against[1]])
    header = ("side", "step ms", "ratio", "peak MB", "loss difference")
    common.print_table(header, rows, f"{threads} thread(s) a rank; peak of the worst rank above its start. Goal: 1.0.")


if __name__ == "__main__":
    main()
