"""Closed form of the time of a training step.

    step = micro-batches x slowest stage + the other stages once (the bubble)
           + communication of gradients and weights that nothing hides + optimizer + fixed

`harness.predict.costs` has the parts. On a machine on which short trainings were measured, each part is what they took
(`harness.predict.probe_factors`). Every formula takes numpy arrays element by element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.predict.costs import (
    exchange_seconds,
    head_seconds,
    layer_seconds,
    send_seconds,
    update_seconds,
)
from harness.predict.devices import Device
from harness.predict.setup import Setup, stage_layers
from harness.predict.shape import Number, Shape


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Where a step's seconds go, on the ranks that set its pace; the parts but `overlapped_communication` add up."""

    compute: Number
    """Forward, backward and recomputed passes of the slowest stage."""
    exposed_communication: Number
    """Communication that nothing hides: tensor parallel, between stages, and the rest of gradients and weights."""
    overlapped_communication: Number
    """Communication that runs beside computation; part of no sum."""
    bubble: Number
    """Waiting while a pipeline fills and drains."""
    optimizer: Number
    """Update of the weights."""
    fixed: Number
    """What a step takes whatever the plan."""
    tokens: Number
    """Tokens of the step."""
    flops: Number
    """Model FLOPs of the step, without recomputation."""
    peak: Number
    """Dense peak of all ranks in FLOP/s."""

    @property
    def total(self) -> Number:
        """Seconds of a step."""
        return self.compute + self.exposed_communication + self.bubble + self.optimizer + self.fixed

    @property
    def tokens_per_s(self) -> Number:
        """Tokens per second over all ranks."""
        return self.tokens / self.total

    @property
    def mfu(self) -> Number:
        """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)."""
        return self.flops / (self.total * self.peak)


def step_time(shape: Shape, setup: Setup, device: Device) -> StepTime:
    """Seconds of a step.

    The bubble is (p - 1) / v of a stage (Narayanan et al. 2021, arXiv:2104.04473), of the stages that wait: one with
    the output projection is longer than the others.

    Raises:
        InputError: the device has no products in the plan's number format.
    """
    layer, head = layer_seconds(shape, setup, device), head_seconds(shape, setup, device)
    seen = device.factors(setup)
    layer, head = layer.scaled(seen.compute, seen.tensor), head * seen.compute
    first, last = stage_layers(shape, setup)
    m, p, v = setup.micro_batches, setup.pp, setup.stages_per_rank
    last_is_slower = last * layer.total + head > first * layer.total
    layers, ends = np.where(last_is_slower, last, first), np.where(last_is_slower, head, 0)
    compute = layers * layer.alone + ends
    send = 2 * v * send_seconds(shape, setup, device)
    slowest = compute + (layers + seen.ends) * layer.tensor + send
    everything = shape.layers * layer.total + head + seen.ends * layer.tensor
    waiting = everything + (p - 1) * send - slowest + send * (p == 1)
    exchange, hidden = exchange_seconds(shape, setup, device, layer, layers)
    hidden = hidden * seen.overlap
    return StepTime(
        compute=m * compute,
        exposed_communication=m * (slowest - compute) + seen.exchange * (exchange - hidden),
        overlapped_communication=hidden,
        bubble=np.where(p > 1, np.maximum(waiting, 0) / v, 0),
        optimizer=seen.update * update_seconds(shape, setup, device, layers),
        fixed=device.efficiency.fixed_s,
        tokens=setup.global_batch * shape.seq_len,
        flops=setup.global_batch * shape.seq_len * shape.flops_per_token,
        peak=device.peak(setup.compute) * setup.world_size,
    )
