"""Distributed data parallel: every rank holds the whole model; gradients are averaged in buckets as backward runs."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Range, Setting, Settings
from strategies.parameter_engine import ParameterEngine

if TYPE_CHECKING:
    from strategies.training import Training


MB, MIB = 10**6, 2**20


class Ddp(Strategy):
    """torch.nn.parallel.DistributedDataParallel (Li et al. 2020, arXiv:2006.15704)."""

    name = "ddp"
    slot = Slot.DATA
    summary = "every rank holds the whole model, gradients are averaged in buckets"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Range(
            name="bucket_mb",
            default=25.0,
            low=0.5,
            high=256.0,
            least=0.25,  # sizes of earlier versions, in today's unit
            most=540.0,
            log=True,
            points=(2.0, 8.0, 25.0, 100.0),
            unit="MB",
            doc="gradients that ranks sum at once, in 10^6 bytes of the format in which they are summed",
            when={"data_parallel": ("ddp", "zero1", "zero2")},
            unless={"zero2_impl": ("fsdp2",)},
        ),
        Choice(
            name="gradient_as_bucket_view",
            default=True,
            values=(True, False),
            doc="gradients are views of the buckets: no copy, and no second buffer",
            when={"data_parallel": ("ddp",)},
        ),
        Choice(
            name="static_graph",
            default=False,
            values=(False, True),
            doc="promise that every step uses the same parameters in the same order",
            when={"data_parallel": ("ddp",)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["data_parallel"] == self.name

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"data_parallel": self.name}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        if plan["static_graph"] and plan["pp"] != 1:
            return "static_graph needs one forward for each backward, but a pipeline schedule interleaves them"
        micro_batches = facts.global_batch_size // (int(plan["dp"]) * int(plan["micro_batch_size"]))
        if plan["static_graph"] and micro_batches > 1:
            return f"static_graph must reduce every backward of its first step, but a step has {micro_batches} of them"
        return None

    def apply(self, training: Training) -> None:
        for part in training.parts:
            training.materialise(part)
        wrap(training, gradient_as_bucket_view=bool(training.plan["gradient_as_bucket_view"]))
        training.engine = DdpEngine(training)


def wrap(training: Training, *, gradient_as_bucket_view: bool) -> None:
    """Put DistributedDataParallel around every part; ranks start equal, so nothing is broadcast."""
    group = training.group("dp")
    # Whatever its name says, torch counts in MiB, and in the format in which gradients lie in its buckets.
    summed = training.reduce_dtype or training.param_dtype
    bucket_cap_mb = float(training.plan["bucket_mb"]) * MB / MIB * training.param_dtype.itemsize / summed.itemsize
    training.parts = [
        DistributedDataParallel(
            part,
            process_group=group,
            bucket_cap_mb=bucket_cap_mb,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=bool(training.plan.get("static_graph", False)),
            broadcast_buffers=False,
            init_sync=False,
        )
        for part in training.parts
    ]
    if training.reduce_dtype is torch.float32 and training.param_dtype is not torch.float32:
        for part in training.parts:
            assert isinstance(part, DistributedDataParallel)
            # A lambda, because torch compares annotations with types and these are strings here.
            part.register_comm_hook(group, lambda state, bucket: _mean_in_fp32(state, bucket.buffer()))


def _mean_in_fp32(group: dist.ProcessGroup, low: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    """Average a low-precision bucket in fp32, so that the sum over ranks does not round at every addition."""
    wide = low.float().div_(dist.get_world_size(group))
    work = dist.all_reduce(wide, group=group, async_op=True)
    return work.get_future().then(lambda done: low.copy_(wide))  # type: ignore[no-any-return]


class DdpEngine(ParameterEngine):
    """Gradients stay local until the last micro-batch."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        part = self.training.parts[0]
        assert isinstance(part, DistributedDataParallel)
        return contextlib.nullcontext() if last else part.no_sync()
