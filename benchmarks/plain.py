"""Training without the harness's trial machinery, on the same model and batches; the loops are in plain_loops.py.

    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/plain.py --strategy ddp

    --strategy ddp | zero1-torch | zero3 | pipeline      PyTorch's own interfaces only
    --strategy zero1 | zero2 | tensor_parallel           strategies.recipe in a bare loop; needs a complete plan
    --deepspeed-stage 1 | 2 | 3                          deepspeed.initialize
    --plan '{"bucket_mb": 8.0}'                          knobs by their names in the harness

Prints one JSON line. Steps are timed as in the harness: some warm-up steps, then a free-running window that one
barrier opens, and the median over its steps of the slowest rank.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import plain_loops
import torch
import torch.distributed as dist

from harness import workloads
from harness.rank.clock import clock_for

WARMUP_STEPS, MIN_STEPS = 4, 5
DEFAULTS: dict[str, Any] = {
    "micro_batch_size": 1,
    "bucket_mb": 25.0,
    "gradient_as_bucket_view": True,
    "static_graph": False,
}
DEFAULTS |= {"prefetch": 1, "reshard_after_forward": True, "pp_schedule": "1f1b"}


def main() -> None:
    """Train and print what was measured."""
    given = _arguments()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with tempfile.TemporaryDirectory() as cache:
        workload = workloads.create(given.workload, cache=Path(cache))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(given.threads or max(1, (os.cpu_count() or 1) // world))
    dist.init_process_group("nccl" if cuda else "gloo")
    run = plain_loops.Run(workload, {**DEFAULTS, **json.loads(given.plan)}, device)
    step = plain_loops.deepspeed(run, given.deepspeed_stage) if given.deepspeed_stage else None
    found = _train(run, step or plain_loops.LOOPS[given.strategy](run), given.seconds)
    if rank == 0:
        malloc = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
        print(json.dumps({**found, "threads": torch.get_num_threads(), "malloc": malloc}))
    dist.barrier()
    dist.destroy_process_group()
    # The interpreter's own end now and then aborts in a thread of the process group, after everything was measured.
    sys.stdout.flush()
    os._exit(0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--strategy", choices=plain_loops.LOOPS)
    which.add_argument("--deepspeed-stage", type=int, choices=(1, 2, 3))
    parser.add_argument("--plan", default="{}", help="knobs as JSON")
    parser.add_argument("--workload", default="gpt-nano")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of the measured window")
    parser.add_argument("--threads", type=int, help="threads of a rank; default: cores // ranks")
    return parser.parse_args()


def _train(run: plain_loops.Run, step: plain_loops.Step, seconds: float) -> dict[str, Any]:
    clock, indices = clock_for(run.device), np.array(run.indices)
    losses: list[torch.Tensor | None] = []

    def steps(count: int) -> None:
        for _ in range(count):
            inputs, targets = run.workload.samples(len(losses), indices).values()
            losses.append(step(len(losses), inputs.to(run.device), targets.to(run.device)))
            clock.mark()

    begin = time.perf_counter()
    clock.restart()
    steps(WARMUP_STEPS)
    usual = torch.tensor(statistics.median(clock.all()[1:]), device=run.device)
    dist.all_reduce(usual, op=dist.ReduceOp.MAX)
    count = max(MIN_STEPS, round(seconds / usual.item()))
    run.memory.reset_peak()
    dist.barrier()
    clock.restart()
    steps(count)
    times = clock.all()
    training_s, peak = time.perf_counter() - begin, run.memory.peak()
    mine = (times, [None if loss is None else loss.item() for loss in losses[:8]], peak)
    ranks: list[Any] = [None] * run.world
    dist.all_gather_object(ranks, mine)
    seen = [[loss for loss in at if loss is not None] for at in zip(*(r[1] for r in ranks), strict=True)]
    return {
        "step_time_s": statistics.median(max(at) for at in zip(*(r[0] for r in ranks), strict=True)),
        "measured_steps": count,
        "training_s": training_s,
        "peak_memory_bytes": max(r[2] for r in ranks),
        "losses": [statistics.mean(at) for at in seen],
    }


if __name__ == "__main__":
    main()
