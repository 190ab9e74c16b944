"""Number formats of parameters, arithmetic, gradient reduction and optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings
from strategies.training import LossScale

if TYPE_CHECKING:
    from strategies.training import Training

AUTOCAST = {"bf16_autocast": torch.bfloat16, "fp16": torch.float16}
"""Precision -> format in which autocast has matrices multiplied."""
AMPERE = (8, 0)
"""NVIDIA's compute capability from which bf16 and TF32 run on tensor cores (CUDA C++ Programming Guide)."""


class Precision(Strategy):
    """Mixed precision (Micikevicius et al. 2018, arXiv:1710.03740).

    | value | parameters | matrix products | gradients summed in | optimizer |
    |---|---|---|---|---|
    | fp32 | fp32 | fp32 | fp32 | fp32 |
    | tf32 | fp32 | TF32: fp32 with 10 bits of mantissa, on tensor cores | fp32 | fp32 |
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
            values=("fp32", "tf32", "bf16_autocast", "bf16_params", "bf16", "fp16"),
            opt_in=("tf32", "fp16"),
            doc="number formats of parameters, arithmetic and reduction",
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["precision"] != "fp32" or "reduce_dtype" in plan

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"precision": kind} for kind in self.searched(self.knobs[0], facts) if kind != "fp32"]  # type: ignore[arg-type]

    def searched(self, knob: Choice, facts: Facts) -> tuple[Setting, ...]:
        if facts.capability is None:
            return super().searched(knob, facts)
        if facts.capability < AMPERE:
            return ("fp32", "fp16")
        return ("fp32", "tf32", *(kind for kind in super().searched(knob, facts) if kind != "fp32"))

    def check(self, plan: Settings, facts: Facts) -> str | None:
        kind = str(plan["precision"])
        if kind == "tf32" and (facts.capability is None or facts.capability < AMPERE):
            return "tf32 needs an NVIDIA device of compute capability 8.0 or later"
        if kind.startswith("bf16") and facts.capability is not None and facts.capability < AMPERE:
            return f"{kind} is emulated below compute capability 8.0; fp16 runs on its tensor cores"
        return None

    def apply(self, training: Training) -> None:
        kind = training.plan["precision"]
        if kind in ("bf16_params", "bf16"):
            training.param_dtype = training.stream_dtype = torch.bfloat16
        if kind == "bf16_params":
            training.master_weights, training.reduce_dtype = True, torch.float32
        if training.plan.get("reduce_dtype") == "bf16":
            training.reduce_dtype = torch.bfloat16
        if kind == "fp16":
            training.loss_scale = LossScale(training.device)
        if kind in ("bf16_params", "bf16"):
            for part in training.parts:
                _cast_inputs(part, torch.bfloat16)
        autocast = AUTOCAST.get(str(kind))
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


def _cast_inputs(part: nn.Module, dtype: torch.dtype) -> None:
    """Give a part's forward its floating-point inputs, such as images, in the format of its weights."""
    inner = part.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(
            lambda x: x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x, (args, kwargs)
        )
        return inner(*args, **kwargs)

    part.forward = forward


def multiply_in(precision: str) -> None:
    """Have this process multiply fp32 matrices, and convolve, in TF32 if that is the precision, and else in fp32.

    Torch convolves in TF32 unless told otherwise, and some container images turn it on for products too.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
