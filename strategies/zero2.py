"""ZeRO-2: optimizer state and gradients divided; gradients are reduced into shards while backward runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from strategies import zero3
from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.flat import FlatEngine
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training


class Zero2(Strategy):
    """Optimizer state and gradients divided over the ranks (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    name = "zero2"
    slot = Slot.DATA
    summary = "optimizer states and gradients divided over the data-parallel ranks"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="zero2_impl",
            default="flat",
            values=("flat", "fsdp2"),
            doc="flat: this package's flat buckets; fsdp2: fully_shard that gathers parameters once a step",
            when={"data_parallel": ("zero2",)},
        ),
        Choice(
            name="zero2_overlap",
            default=True,
            values=(True, False),
            doc="communicate while backward and forward run",
            when={"data_parallel": ("zero2",), "zero2_impl": ("flat",)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["data_parallel"] == self.name

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        # Two buffers of a sixteenth of the gradients each leave most of what dividing them saves.
        bucket_mb = min(25.0, max(1.0, round(4 * facts.model.parameters / 16 / 1e6)))
        flat: dict[str, Setting] = {"data_parallel": self.name, "zero2_impl": "flat", "bucket_mb": float(bucket_mb)}
        return [flat, {"data_parallel": self.name, "zero2_impl": "fsdp2"}]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        return zero3.check_fsdp2(plan, facts) if plan["zero2_impl"] == "fsdp2" else None

    def apply(self, training: Training) -> None:
        plan = training.plan
        if plan["zero2_impl"] == "fsdp2":
            zero3.shard(training, blocks_per_unit=1, prefetch=0, reshard_after_forward=False)
            return
        training.engine = FlatEngine(
            training, stage=2, bucket_mb=float(plan["bucket_mb"]), overlap=bool(plan["zero2_overlap"])
        )
