"""Quantised training with torchao: int8 or float8 matrix products, or 8-bit, 4-bit and fp8 optimizer states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from strategies.base import Slot, Strategy, UnsuitableError
from strategies.engine import local
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training

BLOCKS = {"AdamW8bit": 256, "AdamW4bit": 128, "AdamWFp8": 256}
"""Class -> elements that share a scale. A tensor whose length they do not divide keeps its moments in fp32, and so does
one of less than `SMALL` elements."""
SMALL = 4096
MOST = 0.5
"""Share of the moments that must be quantised for a plan to be what it says."""

OPTIMIZERS = {"adamw8bit": "AdamW8bit", "adamw4bit": "AdamW4bit", "adamwfp8": "AdamWFp8"}
"""Value -> class in torchao.optim. States are quantised in blocks (Dettmers et al. 2022, arXiv:2110.02861)."""

FP8_CAPABILITY = (8, 9)
"""From which NVIDIA devices multiply in 8-bit floating point, and Triton stores it (torchao/optim/README.md)."""
INT8_CAPABILITY = (7, 5)
"""From which they multiply 8-bit integers on tensor cores (CUDA C++ Programming Guide, Turing)."""
FP8_ARCHITECTURES = ("gfx94", "gfx95")
"""AMD's devices that do (MI300 and later); an MI200 says it has capability 9.0, which means something else."""


class Quantization(Strategy):
    """torchao's quantised training; an optional extra, imported only when used."""

    name = "quantization"
    slot = Slot.QUANTIZATION
    summary = "int8 or float8 matrix products, or 8-bit, 4-bit and fp8 optimizer states (torchao)"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="quantization",
            default="none",
            values=("none", "int8", "float8", *OPTIMIZERS),
            doc="int8, float8: products in the blocks; adamw...: the optimizer's moments",
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["quantization"] != "none"

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        kinds = [kind for kind in self.searched(self.knobs[0], facts) if kind != "none"]  # type: ignore[arg-type]
        shown: list[dict[str, Setting]] = [{"quantization": kind} for kind in kinds]
        if "float8" in kinds and facts.capability is not None and facts.compiler:
            # Uncompiled, its casts are kernels of their own and cost more than the products gain (torchao/float8).
            shown.append({"quantization": "float8", "compile": True})
        return shown

    def searched(self, knob: Choice, facts: Facts) -> tuple[Setting, ...]:
        return tuple(kind for kind in knob.values if kind == "none" or _lacks(str(kind), facts) is None)

    def check(self, plan: Settings, facts: Facts) -> str | None:
        kind, model = str(plan["quantization"]), facts.model
        if "torchao" not in facts.extras:
            return f"{kind} needs torchao: pip install 'distributed-harness[quantization]'"
        if lack := _lacks(kind, facts):
            return lack
        if kind != "float8" and facts.device_type != "cpu" and not facts.compiler:
            return f"{kind} compiles its kernels, which needs a C compiler and Python's headers; none were found"
        if kind in OPTIMIZERS:
            if plan["precision"] == "bf16":
                return f"{kind} updates in fp32, but precision=bf16 leaves no fp32 weights; use bf16_params"
            return None
        if not model.blocks or not model.width:
            return f"{facts.workload} has no blocks of linear layers whose products could be in {kind}"
        if plan["precision"] in ("bf16_autocast", "fp16"):
            return f"{kind} casts its inputs itself and does not follow autocast; use fp32, bf16_params or bf16"
        return self._check_shapes(kind, plan, facts)

    @staticmethod
    def _check_shapes(kind: str, plan: Settings, facts: Facts) -> str | None:
        """float8 and int8 kernels work on tiles of 16, so every dimension of every product must be a multiple."""
        model, tp = facts.model, int(plan["tp"])
        tokens = int(plan["micro_batch_size"]) * facts.seq_len
        sizes = {"width": model.width, "hidden / tp": model.hidden / tp, "micro-batch x seq_len": tokens}
        if model.heads:
            sizes["heads / tp x head width"] = model.heads / tp * model.head_dim
        for name, value in sizes.items():
            if value % 16:
                return f"{kind} needs multiples of 16 in every dimension, but {name} is {value:g}"
        if tp > 1 and model.heads % tp:
            return f"{kind} needs equal shares on every rank, but got (heads={model.heads}, tp={tp})"
        return None

    def finish(self, training: Training) -> None:
        kind = str(training.plan["quantization"])
        large = getattr(training.make_optimizer, "large", ())
        if not large:
            return
        block = BLOCKS[OPTIMIZERS[kind]]
        share = sum(length for length in large if length % block == 0) / sum(large)
        if share < MOST:
            raise UnsuitableError(
                f"{kind} would leave {1 - share:.0%} of the moments in fp32, since their tensors' lengths are no "
                f"multiples of {block}; zero1 and zero2 pad theirs"
            )

    def apply(self, training: Training) -> None:
        kind = str(training.plan["quantization"])
        if kind in OPTIMIZERS:
            training.make_optimizer = _optimizer(training, OPTIMIZERS[kind])
            return
        swapped = 0
        for part in training.parts:
            for _, block in training.units(part):
                swapped += _to_int8(block) if kind == "int8" else _to_float8(block, training.facts)
        if not swapped:
            raise UnsuitableError(
                f"no layer of {training.facts.workload} is an nn.Linear whose products could be in {kind}"
            )


def _optimizer(training: Training, name: str) -> Any:
    import torchao.optim

    config = training.config
    if training.device.type == "cpu":
        # Compiling these small kernels takes ten seconds and more on a CPU, where they run no faster compiled.
        torch.compiler.set_stance("force_eager")

    large: list[int] = []

    def make(groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        lengths = [local(p).numel() for group in groups for p in group["params"]]  # type: ignore[attr-defined]
        large.extend(length for length in lengths if length >= SMALL)
        kind: Any = getattr(torchao.optim, name)
        return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps)  # type: ignore[no-any-return]

    make.large = large  # type: ignore[attr-defined]
    return make


def _lacks(kind: str, facts: Facts) -> str | None:
    """What the devices lack for a value, in one sentence, or None."""
    if facts.capability and facts.capability < FP8_CAPABILITY and kind in ("float8", "adamwfp8"):
        have, need = (".".join(map(str, each)) for each in (facts.capability, FP8_CAPABILITY))
        return f"{kind} needs compute capability {need} for its 8-bit floating point, but the device has {have}"
    if facts.capability and facts.capability < INT8_CAPABILITY and kind == "int8":
        have, need = (".".join(map(str, each)) for each in (facts.capability, INT8_CAPABILITY))
        return f"int8 needs compute capability {need} for its products, but the device has {have}"
    if facts.architecture and not facts.architecture.startswith(FP8_ARCHITECTURES) and kind in ("float8", "adamwfp8"):
        return (
            f"{kind} needs an AMD device with 8-bit floating point (gfx942, gfx950), but this is {facts.architecture}"
        )
    if facts.device_type not in ("cpu", "cuda") and kind != "none":
        return f"{kind} has kernels for CUDA, ROCm and the CPU, but the device is {facts.device_type}"
    return None


def _to_int8(block: nn.Module) -> int:
    """Swap the linear layers of a block; how many there are."""
    from torchao.prototype.quantized_training.int8_mixed_precision import (
        Int8MixedPrecisionTrainingConfig,
        Int8MixedPrecisionTrainingLinear,
    )

    linear = [module for module in block.modules() if type(module) is nn.Linear]
    for module in linear:
        # Only forward differs; the weight stays an ordinary parameter, which every data-parallel kind can hold.
        module.__class__ = Int8MixedPrecisionTrainingLinear
        module.config = Int8MixedPrecisionTrainingConfig()
    return len(linear)


def _to_float8(block: nn.Module, facts: Facts) -> int:
    """Likewise."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    from torchao.float8.float8_linear import Float8Linear

    convert_to_float8_training(block, config=Float8LinearConfig(emulate=facts.device_type == "cpu"))
    return sum(isinstance(module, Float8Linear) for module in block.modules())
