"""Does a plan compute the same thing? Its first steps against one process in fp32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from strategies.knob import Setting

LOSS_TOLERANCE: dict[str, Mapping[Setting, float]] = {
    "precision": {"fp32": 1e-4, "tf32": 2e-3, "bf16_autocast": 5e-3, "bf16_params": 5e-3, "bf16": 1e-2, "fp16": 2e-3},
    "quantization": {"none": 0.0, "int8": 1e-2, "float8": 2e-2, "adamw8bit": 5e-3, "adamwfp8": 5e-3, "adamw4bit": 2e-2},
    "reduce_dtype": {"fp32": 0.0, "bf16": 5e-3},
}
"""Largest relative difference of a step's loss that passes, by knob and value; the loosest of a plan's counts."""

GRADIENT_FACTOR = 10.0
"""A gradient's norm may differ by this much more than a loss: it is no average over predictions."""

EXACT = LOSS_TOLERANCE["precision"]["fp32"]
"""Plans with this tolerance follow the reference for as long as it goes: measured over sixteen steps of gpt-nano, their
losses lie within 3e-6 of it and their gradient norms within 1e-4. Others drift apart by rounding alone."""
LATE_FACTOR = 10.0
"""What such a plan may differ more by in the steps after the compared ones."""


@dataclass(frozen=True)
class Curve:
    """Loss and gradient norm of consecutive steps from the first."""

    loss: Sequence[float]
    grad_norm: Sequence[float]
    reference: str = "process"
    """As a reference, what it is: the column of that name."""
    whose: str = "one process in fp32"
    """Who trained, for sentences."""
    tolerance: float = 0.0
    """Of its own number formats: a relative difference that says nothing against a plan compared with it."""


@dataclass(frozen=True)
class Verdict:
    """What the comparison found."""

    passed: bool
    max_rel_error: float
    """Largest relative difference; those of gradient norms divided by `GRADIENT_FACTOR`, those of later steps by
    `LATE_FACTOR`."""
    tolerance: float
    reason: str | None
    """Where it failed, in one sentence."""


def tolerance(plan: Mapping[str, Setting]) -> float:
    """The largest relative difference in loss that passes for a plan's number formats."""
    return max(table[plan[knob]] for knob, table in LOSS_TOLERANCE.items() if plan.get(knob) in table)


def compare(measured: Curve, reference: Curve, plan: Mapping[str, Setting], steps: int) -> Verdict:
    """Compare the losses and gradient norms of the first `steps` steps of a trial with the reference's.

    Of a plan that computes in fp32 throughout, every later step that the reference has is compared too, less strictly.
    AdamW hides a wrong scale of the gradients from the losses, so the norms are what finds a missing average.
    """
    limit = max(tolerance(plan), reference.tolerance)
    return within(measured, reference, limit, steps, later=limit <= EXACT)


def within(measured: Curve, reference: Curve, limit: float, steps: int, *, later: bool = False) -> Verdict:
    """Whether the first `steps` steps of a curve stay within a relative difference in loss.

    Args:
        measured: whose curve is judged.
        reference: what it is compared with.
        limit: the largest difference that passes.
        steps: how many are compared.
        later: whether those after them are, less strictly.
    """
    worst, failed = 0.0, []
    for what, factor in (("loss", 1.0), ("grad_norm", GRADIENT_FACTOR)):
        pairs = zip(getattr(measured, what), getattr(reference, what), strict=False)
        for step, (ours, theirs) in enumerate(pairs):
            if step >= steps and not later:
                break
            allowed = limit * factor * (LATE_FACTOR if step >= steps else 1.0)
            error = abs(ours - theirs) / max(abs(theirs), 1e-12) / allowed * limit
            error = error if math.isfinite(error) else math.inf
            if error > limit:
                name = "loss" if what == "loss" else "gradient norm"
                reason = (
                    f"{name} of step {step} is {ours:.6g} where {reference.whose} has {theirs:.6g}; "
                    f"{allowed:g} relative is allowed"
                )
                failed.append((step, reason))
            worst = max(worst, error)
    first = min(failed, key=lambda pair: pair[0], default=None)
    return Verdict(first is None, worst, limit, first[1] if first else None)
