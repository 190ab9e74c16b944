"""Short trainings of a shallow model, one plan after the other in the same processes: what plans are made of.

Each is one micro-batch and one update with the strategies' own code. All ranks run them at once, also those of plans
for one rank: on a CPU they share its cores. Plans are measured in rounds as long as the time lasts, and the least of a
plan's medians counts: what disturbs the machine for a second only adds.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch.distributed as dist

from harness.launchers.job import Job
from harness.plan import Plan
from harness.rank.main import build
from harness.rank.stopwatch import Stopwatch
from harness.workloads.workload import Workload
from strategies.facts import Facts

DEPTH = 2
"""Blocks of the model."""
ROUNDS = 2
"""Most times that each plan is measured."""
AGAIN_S = 12.0
"""No plan is measured again after so many seconds."""
COMPARED = 2
"""Of the plans the first so many are measured twice a round: what all others take is seen as a multiple of theirs."""
REPEATS = (3, 8)
"""Most steps that are timed each time, after one or two that are not: of one rank, of several."""
ENOUGH_S = (0.05, 0.15)
"""Seconds of timed steps after which no more are, likewise: what ranks send takes more in one step than another."""


def run(
    job: Job,
    plans: Sequence[Plan],
    watch: Stopwatch,
    seconds: float,
) -> dict[str, Any]:
    """Measure plans until the time is over.

    Args:
        job: whose workload is trained, with `DEPTH` blocks.
        plans: of one rank, or of all, each of them different; what matters most comes first.
        watch: of this rank.
        seconds: no plan is begun for the first time after so many.

    Returns:
        `probes`: of each plan its settings, the seconds of a pass and of an update; `probed_shape`: the model's
        dimensions; {} if the model has no blocks to take away.
    """
    model = job.facts.model
    if not hasattr(job.workload, "blocks") or not (model.width and model.heads) or len(model.blocks) < DEPTH:
        return {}
    shallow = replace(job.workload, blocks=DEPTH)  # type: ignore[call-arg]
    facts = replace(job.facts, model=shallow.facts())
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it again after each plan would take most of the time
    rows: dict[Plan, dict[str, float]] = {}
    begin = time.perf_counter()
    for plan in (*plans[: len(plans) // 2], *plans[:COMPARED], *plans[len(plans) // 2 :]) * ROUNDS:
        again = plan in rows
        if not watch.agreed(int(time.perf_counter() - begin < (AGAIN_S if again else seconds))):
            if again:
                continue
            break
        samples = int(plan["dp"]) * int(plan["micro_batch_size"])
        its = replace(facts, world_size=plan.world_size, global_batch_size=samples)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say of themselves would stand between a sweep's lines
            passes, updates = _timed(replace(shallow, global_batch_size=samples), plan, its, watch)
        gc.collect()  # hooks and parameters hold each other; the next model needs the memory
        seen = {"pass_s": median(passes), "update_s": median(updates)}
        rows[plan] = {name: min(value, rows.get(plan, seen)[name]) for name, value in seen.items()}
    return {
        "probes": [{"plan": dict(plan), **row} for plan, row in rows.items()],
        "probed_shape": {
            "width": model.width,
            "layers": DEPTH,
            "heads": model.heads,
            "kv_heads": model.heads,
            "hidden": model.hidden or 4 * model.width,
            "seq_len": job.facts.seq_len,
            "vocab": model.vocab_size,
            "tied": model.tied,
        },
    }


def _timed(workload: Workload, plan: Plan, facts: Facts, watch: Stopwatch) -> tuple[list[float], list[float]]:
    """(seconds of each pass, seconds of each update)."""
    training = build(workload, plan, facts, watch.device)
    inputs, targets = (t.to(watch.device) for t in workload.samples(0, np.array(training.sample_indices)))
    passes: list[float] = []
    updates: list[float] = []
    several = plan.world_size > 1
    warm = 1 + (plan["data_parallel"] == "ddp")  # which makes its buckets anew in the second step
    most, enough = warm + REPEATS[several], ENOUGH_S[several]
    while watch.agreed(int(len(passes) < most and sum(passes[warm:] + updates[warm:]) < enough)):
        if dist.is_initialized():
            dist.barrier()
        times = [watch.now()]
        training.forward_backward(inputs, targets)
        training.engine.finish_gradients()
        times.append(watch.now())
        training.update()
        times.append(watch.now())
        passes.append(times[1] - times[0])
        updates.append(times[2] - times[1])
    training.engine.drain()
    return passes[warm:], updates[warm:]
