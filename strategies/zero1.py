"""ZeRO-1: each data-parallel rank keeps and updates its share of the optimizer state."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from strategies import ddp
from strategies.base import Slot, Strategy
from strategies.engine import decay_groups
from strategies.facts import Facts
from strategies.flat import FlatEngine
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training


class Zero1(Strategy):
    """Optimizer state divided over the data-parallel ranks (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    name = "zero1"
    slot = Slot.DATA
    summary = "optimizer states divided over the data-parallel ranks"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="zero1_impl",
            default="flat",
            values=("flat", "torch"),
            doc="flat: this package's flat buckets; torch: DDP with ZeroRedundancyOptimizer",
            when={"data_parallel": ("zero1",)},
        ),
        Choice(
            name="zero1_overlap",
            default=True,
            values=(True, False),
            doc="communicate while backward and forward run",
            when={"data_parallel": ("zero1",), "zero1_impl": ("flat",)},
        ),
        Choice(
            name="reduce_dtype",
            default="fp32",
            values=("fp32", "bf16"),
            doc="number format in which gradients are summed over ranks",
            when={"data_parallel": ("zero1", "zero2", "zero3"), "precision": ("bf16_autocast", "bf16_params")},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["data_parallel"] == self.name

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"data_parallel": self.name, "zero1_impl": impl} for impl in ("flat", "torch")]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        if plan["zero1_impl"] == "flat":
            return None
        if plan["precision"] == "bf16_params":
            return "ZeroRedundancyOptimizer keeps no fp32 master weights, which bf16_params needs; zero1_impl=flat does"
        if plan.get("reduce_dtype") == "bf16":
            return "zero1_impl=torch sums gradients in their own format; reduce_dtype=bf16 needs zero1_impl=flat"
        if str(plan["quantization"]).startswith("adamw"):
            return "ZeroRedundancyOptimizer cannot hold quantised optimizer states; zero1_impl=flat can"
        return None

    def apply(self, training: Training) -> None:
        plan = training.plan
        if plan["zero1_impl"] == "flat":
            training.engine = FlatEngine(
                training, stage=1, bucket_mb=float(plan["bucket_mb"]), overlap=bool(plan["zero1_overlap"])
            )
            return
        for part in training.parts:
            training.materialise(part)
        ddp.wrap(training, gradient_as_bucket_view=True)
        config = training.config
        optimizer = ZeroRedundancyOptimizer(
            decay_groups((training.weight_decay(name), p) for name, p in training.trained()),
            optimizer_class=torch.optim.AdamW,
            process_group=training.group("dp"),
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=True,
        )
        training.engine = ddp.DdpEngine(training, optimizer=optimizer)
