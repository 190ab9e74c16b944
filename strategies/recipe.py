"""The order in which strategies are applied, on one screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Settings
from strategies.optimizer import OptimizerConfig
from strategies.parameter_engine import ParameterEngine
from strategies.precision import multiply_in
from strategies.training import Initial, Loss, Metric, Training

ORDER = (
    Slot.PIPELINE,  # first, so that a rank never builds what it does not hold
    Slot.QUANTIZATION,  # swaps layers, so before anything hooks into them
    Slot.TENSOR,  # divides the layers that are left
    Slot.PRECISION,  # decides in which format they get their values
    Slot.ATTENTION,  # says what the blocks call, divided or not
    Slot.CHECKPOINT,  # around whole blocks, divided or not
    Slot.COMPILE,  # the block as it will run, recomputation included
    Slot.LOSS,  # of divided logits too, and around no block
    Slot.EXTRA,  # strategies of other packages that are none of these
    Slot.DATA,  # last: gives the parameters their values and owns their gradients from then on
)


def build(
    model: nn.Module,
    *,
    plan: Settings,
    strategies: Iterable[Strategy],
    facts: Facts,
    device: torch.device,
    initial: Initial,
    inputs: Sequence[str],
    loss: Loss,
    predictions: float | None = None,
    metric: Metric | None = None,
    optimizer: OptimizerConfig | None = None,
) -> Training:
    """A model built on the meta device, made ready to train by a plan on this rank.

    torch.distributed must be initialised if the plan has more than one rank. The plan must have passed every `check`.

    Args:
        model: undivided, on the meta device.
        plan: a setting for every knob.
        strategies: those that may be active, in any order.
        facts: what the plan was checked against.
        device: this rank's device.
        initial: (parameter name, full shape, device) -> fp32 initial value.
        inputs: names of what the model is called with, in order.
        loss: (outputs, batch) -> (sum of the losses of all predictions, their number).
        predictions: of each sample, if all have as many; None: they are counted in every step.
        metric: (outputs, batch) -> (sum, number) of a second figure of merit.
        optimizer: AdamW's constants; the defaults if None.
    """
    multiply_in(str(plan["precision"]))
    training = Training(
        model,
        plan=plan,
        facts=facts,
        device=device,
        initial=initial,
        inputs=inputs,
        loss=loss,
        predictions=predictions,
        metric=metric,
        optimizer=optimizer or OptimizerConfig(),
    )
    active = sorted((s for s in strategies if s.active(plan)), key=lambda s: ORDER.index(s.slot))
    for strategy in active:
        strategy.apply(training)
    if not any(strategy.slot is Slot.DATA for strategy in active):
        for part in training.parts:
            training.materialise(part)
        training.engine = ParameterEngine(training)
    for strategy in active:
        strategy.finish(training)
    return training
