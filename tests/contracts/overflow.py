"""What runs in ranks to see that a step whose gradients overflow changes nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from harness.plan import Plan
from harness.rank.main import build, join
from harness.workloads.workload import Workload
from strategies import Facts
from tests.contracts.alive import CPU, Batch


def write_down(batch: Batch, rank: int) -> None:
    """Of each plan: whether a sound step changed the state of training, and whether one that overflowed did."""
    torch.set_num_threads(batch.threads)
    if batch.world_size > 1:
        join(batch, rank, CPU)
    batch.found_of(rank).write_text(json.dumps([_seen(*plan) for plan in batch.plans]))
    if batch.world_size > 1:
        dist.barrier()


def _seen(workload: Workload, plan: Plan, facts: Facts) -> dict[str, Any]:
    training = build(workload, plan, facts, CPU)
    samples = workload.samples(0, np.array(training.sample_indices))

    def kept() -> list[torch.Tensor]:
        training.engine.drain()
        state = training.engine.state()
        return [tensor.clone() for tensor in (*state.params, *state.optimizer)]

    def step(number: int) -> bool:
        before = kept()
        training.step(number, samples)
        after = kept()
        return len(before) != len(after) or not all(map(torch.equal, before, after))

    scale = training.loss_scale
    assert scale is not None
    training.step(0, samples)  # makes the optimizer's state
    sound = step(1)
    usual, scale.value = scale.value, torch.tensor(torch.inf)
    overflowed = step(2)
    scale.value = usual
    return {"sound": sound, "overflowed": overflowed, "next": step(3)}
