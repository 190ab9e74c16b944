"""How many steps a loss takes: the same under every plan, as all of them follow the reference."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import MeasurementError
from harness.trial.numerics import Curve

STEPS = 64
"""Length of the curve that trials are compared with when the objective is a time to a loss."""
WINDOW = 4
"""A loss counts as reached when the mean of this many steps is below it."""


def steps(references: Mapping[str, Curve | None], asked: float | None) -> tuple[float, dict[str, int]]:
    """The target loss, and of each workload the steps to it.

    Args:
        references: workload id -> its curve.
        asked: the target; None: what every curve reaches.

    Raises:
        MeasurementError: a curve is missing, or does not reach it.
    """
    if unknown := [workload_id for workload_id, curve in references.items() if curve is None]:
        raise MeasurementError(
            f"no curve of losses is known of {', '.join(unknown)}, so a time to a loss cannot be told; "
            "choose another --objective"
        )
    smooth = {
        workload_id: [sum(c.loss[i : i + WINDOW]) / WINDOW for i in range(len(c.loss) - WINDOW + 1)]
        for workload_id, c in references.items()
        if c is not None
    }
    target = asked or max(min(losses) for losses in smooth.values())
    found = {w: next((i for i, loss in enumerate(ls) if loss <= target), None) for w, ls in smooth.items()}
    if missing := [workload_id for workload_id, count in found.items() if count is None]:
        raise MeasurementError(
            f"the loss {target:g} is not reached within {STEPS} steps of {', '.join(missing)}; "
            "choose a higher --target-loss"
        )
    return target, {w: count + WINDOW for w, count in found.items() if count is not None}
