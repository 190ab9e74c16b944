"""What launches of a script as it stood come to: what its other plans are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.launchers.job import Measurement
from harness.plan import Plan
from harness.store.records import Outcome, Role
from harness.store.standings import Row
from harness.store.store import Store
from harness.trial import numerics
from harness.trial.numerics import Curve
from harness.trial.recorder import Launched, Result
from harness.trial.script_runner import Baseline, ScriptRunner

LAUNCHES = 2
"""Of the baseline: what they differ by is no fault of a plan."""
ATTEMPTS = 3
"""How often one is begun that the system takes away each time."""


def measure(
    runner: ScriptRunner,
    plan: Plan,
    known: Sequence[Row] = (),
    note: Callable[[Result], None] = lambda result: None,
    *,
    study_trial: int | None = None,
    kept: bool = False,
) -> Result | None:
    """Launch a script as it stood as often as it was not yet, and have its runner compare plans with it.

    Args:
        runner: launches it.
        plan: the script as it stood.
        known: launches that ended well before.
        note: told of each launch.
        study_trial: number of the first launch in a study.
        kept: see `of`.

    Returns:
        The launch that did not end well; None if all did.

    Raises:
        as `ScriptRunner.run`, and what `note` raises.
    """
    rows = list(known[:LAUNCHES])
    while True:
        if rows:
            runner.baseline = of(runner.store, runner.hardware_id, runner.sweep, rows, kept=kept)
        if len(rows) == LAUNCHES:
            return None
        launched = Launched(role=Role.BASELINE, study_trial=None if rows else study_trial)
        for _ in range(ATTEMPTS):
            result = runner.run(plan, runner.main, None, launched)
            note(result)
            if result.outcome is not Outcome.PREEMPTED:
                break
        if result.outcome is not Outcome.OK:
            return result
        rows.append(result.row)


def of(
    store: Store, hardware_id: str, sweep: str, rows: Sequence[Mapping[str, Any]], *, kept: bool = False
) -> Baseline:
    """The baseline of launches that ended well, at least one.

    Args:
        store: where their steps stand.
        hardware_id: in which they were recorded.
        sweep: in which they were recorded.
        rows: the launches.
        kept: whether the curve of the first is written as the reference of what is trained, for reports.
    """
    all_steps = store.steps(sweep, hardware_id)
    tables = [
        all_steps[all_steps["trial_id"] == row["trial_id"]].groupby("step")[["loss", "grad_norm", "step_time_s"]].mean()
        for row in rows
    ]
    one, *others = (_curve(table) for table in tables)
    steps = Measurement().warmup_steps
    noise = max((numerics.within(one, other, 1.0, steps).max_rel_error for other in others), default=math.inf)
    if kept:
        store.write_reference(rows[0]["workload_id"], _reference(tables[0]))
    return Baseline(curve=one, noise=noise, samples_per_step=rows[0]["samples_per_step"])


def _curve(means: Any) -> Curve:
    losses, norms = (list(means[name].dropna()) for name in ("loss", "grad_norm"))
    return Curve(losses, norms, "baseline", "the baseline")


def _reference(means: Any) -> list[dict[str, Any]]:
    return [
        {
            "step": int(step),
            "loss": float(row["loss"]),
            "grad_norm": None if row["grad_norm"] != row["grad_norm"] else float(row["grad_norm"]),
            "step_time_s": float(row["step_time_s"]),
            "arithmetic": "the baseline's",
        }
        for step, row in means.dropna(subset=["loss"]).iterrows()
    ]
