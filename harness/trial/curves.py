"""Curves that trials are compared with, in the store: of one process in fp32, or of a plan that others agree with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from harness.labels import layout
from harness.plan import Plan
from harness.store.store import Store
from harness.trial import numerics
from harness.trial.numerics import Curve
from harness.workloads.workload import Workload

if TYPE_CHECKING:
    import pandas as pd


def recorded(store: Store, workload: Workload, steps: int) -> Curve | None:
    """The curve of one process in fp32, if there is one of at least so many steps by today's initial weights."""
    found = _usable(store.reference(workload.workload_id), workload, steps)
    return None if found is None else Curve(list(found["loss"]), list(found["grad_norm"]))


def agreed(store: Store, workload: Workload, steps: int, reference: str) -> Curve | None:
    """Likewise the curve that plans agreed on, as that kind of reference."""
    found = _usable(store.reference(workload.workload_id, agreed=True), workload, steps)
    if found is None:
        return None
    plan = Plan.from_json(found["plan"].iloc[0])
    return of_plan(Curve(list(found["loss"]), list(found["grad_norm"])), plan, reference)


def of_plan(curve: Curve, plan: Plan, reference: str = "twin") -> Curve:
    """The curve of a plan as what others are compared with."""
    whose = f"the plan {named(plan)}, which is right on its twin or agrees with another,"
    return Curve(curve.loss, curve.grad_norm, reference, whose, numerics.tolerance(plan))


def named(plan: Plan) -> str:
    """A plan in a sentence: how it divides the work, and its number format."""
    return f"{layout(plan)} in {plan['precision']}"


def keep(
    store: Store,
    workload: Workload,
    curve: Curve,
    seconds: Sequence[float],
    device_type: str,
    plan: Plan | None = None,
    witness: Plan | None = None,
) -> None:
    """Record a curve.

    Args:
        store: where.
        workload: what was trained.
        curve: its loss and gradient norm by step.
        seconds: of each step.
        device_type: what it was trained on.
        plan: whose curve it is; None: one process in fp32.
        witness: the plan that agreed with it; None: there was none.
    """
    formats = "fp32 without TF32" if plan is None else str(plan["precision"])
    made: dict[str, Any] = {
        "initial_values": workload.initial_values,
        "arithmetic": f"{formats}, {device_type}, torch {version('torch')}",
        "plan": None if plan is None else plan.to_json(),
        "witness": None if witness is None else witness.to_json(),
    }
    rows = [
        {"step": step, "loss": loss, "grad_norm": norm, "step_time_s": took, **made}
        for step, (loss, norm, took) in enumerate(zip(curve.loss, curve.grad_norm, seconds, strict=True))
    ]
    store.write_reference(workload.workload_id, rows, agreed=plan is not None)


def _usable(found: pd.DataFrame | None, workload: Workload, steps: int) -> pd.DataFrame | None:
    """A recorded curve, if it is long enough and its initial weights were drawn by the rule of today."""
    if found is None or len(found) < steps:
        return None
    return found if next(iter(found["initial_values"]), None) == workload.initial_values else None
