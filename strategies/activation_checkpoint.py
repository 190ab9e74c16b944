"""Activation checkpointing: free a block's activations after its forward pass, compute them again for its backward."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from strategies.base import Slot, Strategy
from strategies.dropout import recomputable
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Range, Setting, Settings

if TYPE_CHECKING:
    from strategies.training import Training


class ActivationCheckpoint(Strategy):
    """Recomputation (Chen et al. 2016, arXiv:1604.06174), of all, some or the cheap operators of the blocks."""

    name = "activation_checkpoint"
    slot = Slot.CHECKPOINT
    summary = "compute activations again in the backward pass instead of keeping them"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Choice(
            name="activation_checkpoint",
            default="none",
            values=("none", "full", "nth", "selective"),
            doc="full: every block; nth: every n-th block; selective: all but matrix products and attention",
        ),
        Range(
            name="checkpoint_every",
            default=2,
            low=2,
            high=8,
            integer=True,
            points=(2, 3, 4),
            unit="blocks",
            doc="n of nth",
            when={"activation_checkpoint": ("nth",)},
        ),
    )

    def active(self, plan: Settings) -> bool:
        return plan["activation_checkpoint"] != "none"

    def showcases(self, facts: Facts) -> list[dict[str, Setting]]:
        return [{"activation_checkpoint": kind} for kind in ("full", "nth", "selective")]

    def check(self, plan: Settings, facts: Facts) -> str | None:
        if not facts.model.blocks:
            return f"{facts.workload} has no repeated blocks to checkpoint"
        every = int(plan.get("checkpoint_every", 1))
        if every > len(facts.model.blocks):
            return f"checkpoint_every={every} checkpoints nothing in {len(facts.model.blocks)} blocks"
        return None

    def apply(self, training: Training) -> None:
        every = int(training.plan.get("checkpoint_every", 1))
        names = training.facts.model.blocks
        chosen = {name for i, name in enumerate(names, start=1) if i % every == 0}
        selective = training.plan["activation_checkpoint"] == "selective"
        for part in training.parts:
            for name, block in training.units(part):
                if name in chosen:
                    wrap(block, selective=selective, dropping=training.facts.model.keeps_dropout)


def wrap(block: nn.Module, *, selective: bool, dropping: bool = False) -> None:
    """Checkpoint a block's forward pass in place, so that parameter names stay what they are."""
    options: dict[str, Any] = {"use_reentrant": False}
    if selective:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    if not dropping:
        block.forward = partial(checkpoint, block.forward, **options)
        return
    begin = recomputable(block.forward)
    block.forward = lambda *args, **kwargs: checkpoint(begin(), *args, **options, **kwargs)


_aten = torch.ops.aten
KEPT = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._int_mm.default,
    _aten._scaled_mm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""Operators whose results selective checkpointing keeps: they take nearly all the time of a forward pass."""
KEPT_OF_OTHERS = {"torchao::scaled_int8_mm"}
"""Likewise of other packages, which may not be loaded."""


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operator in KEPT or operator.name() in KEPT_OF_OTHERS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
