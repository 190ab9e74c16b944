"""Number formats of parameters, arithmetic, gradient reduction and optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings
from strategies.training import LossScale

if TYPE_CHECKING:
    from strategies.training import Training


class Precision(Strategy):
    """Mixed precision (Micikevicius et al. 2018, arXiv:1710.03740).

    | value | parameters | matrix products | gradients summed in | optimizer |
    |---|---|---|---|---|
    | fp32 | fp32 | fp32 | fp32 | fp32 |
    | bf16_autocast | fp32 | bf16 | fp32 | fp32 |
    | bf16_params | bf16 | bf16 | fp32 | fp32 master weights |
    | bf16 | bf16 | bf16 | bf16 | bf16 |
    | fp16 | fp32 | fp16, loss scaled | fp32 | fp32 |
    """

    name = "precision"
    slot = Slot.PRECISION
    summary = "lower-precision arithmetic, parameters and reduction"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="precision",
            default="fp32",
            values=("fp32", "bf16_autocast", "bf16_params", "bf16", "fp16"),
            opt_in=("fp16",),
            doc="number formats of parameters, arithmetic and reduction",
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["precision"] != "fp32" or "reduce_dtype" in plan

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"precision": kind} for kind in ("bf16_autocast", "bf16_params", "bf16")]

    def apply(self, training: Training) -> None:
        kind = training.plan["precision"]
        if kind in ("bf16_params", "bf16"):
            training.param_dtype = training.stream_dtype = torch.bfloat16
        if kind == "bf16_params":
            training.master_weights, training.reduce_dtype = True, torch.float32
        if training.plan.get("reduce_dtype") == "bf16":
            training.reduce_dtype = torch.bfloat16
        if kind == "fp16":
            training.loss_scale = LossScale()
        autocast = {"bf16_autocast": torch.bfloat16, "fp16": torch.float16}.get(str(kind))
        if autocast is not None:
            for part in training.parts:
                _autocast(part, training.device.type, autocast)


def _autocast(part: nn.Module, device_type: str, dtype: torch.dtype) -> None:
    """Run a part's forward under autocast, wherever it is called from; backward follows what forward recorded."""
    inner = part.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype):
            return inner(*args, **kwargs)

    part.forward = forward
