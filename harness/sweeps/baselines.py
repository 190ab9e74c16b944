"""The script as it stood, launched twice: what its other plans are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError, MeasurementError
from harness.plan import Plan
from harness.store import standings
from harness.store.records import Outcome, Role
from harness.store.standings import Row
from harness.store.store import Store
from harness.sweeps.script_experiment import APART, MAIN, ScriptExperiment, kernels
from harness.trial import numerics
from harness.trial.numerics import Curve
from harness.trial.recorder import Result
from harness.trial.script_runner import NOISE_FACTOR, Baseline, ScriptRunner

LAUNCHES = 2
"""Of the baseline: what they differ by is no fault of a plan."""
ATTEMPTS = 3
"""How often one is begun that the system takes away each time."""
REPEATABLE = 1e-6
"""Relative difference of two launches that is rounding."""


def make_runner(
    experiment: ScriptExperiment, store: Store, sweep: str, on_step: Callable[[int], None] | None = None
) -> ScriptRunner:
    """A runner for the trials of a script."""
    config = experiment.config
    return ScriptRunner(
        store=store,
        hardware_id=experiment.hardware.hardware_id,
        sweep=sweep,
        measurement=experiment.measurement,
        deadlines=experiment.deadlines,
        devices=experiment.hardware.devices,
        on_step=on_step,
        script=experiment.script,
        main=experiment.workloads[MAIN],
        apart=experiment.workloads[APART],
        cache=kernels(config.results),
        keep=config.results / "kept" / sweep if config.keep else None,
    )


@dataclass
class Baselines:
    """Measures it.

    Args:
        experiment: the script.
        runner: is told what was found.
        say: takes a line.
        note: told of each launch.
    """

    experiment: ScriptExperiment
    runner: ScriptRunner
    say: Callable[[str], None] = lambda text: None
    note: Callable[[Result, Plan], None] = lambda result, plan: None

    def measure(self, rows: Sequence[Row] = ()) -> None:
        """Launch it as often as it was not yet.

        Args:
            rows: trials that are known.

        Raises:
            InputError: nobody knows how many samples or tokens its steps hold.
            KeyboardInterrupt: it was interrupted.
            MeasurementError: it does not run.
        """
        usable = [row for row in rows if row["role"] == Role.BASELINE and row["outcome"] in standings.USABLE]
        known: list[Row] = usable[:LAUNCHES]
        if known:
            self.runner.baseline = self._baseline(known)
        else:
            self.say("the script as it stood, launched twice: what its other plans are compared with")
        while len(known) < LAUNCHES:
            known.append(self._launch(first=not known))
            self.runner.baseline = self._baseline(known)
        assert self.runner.baseline is not None
        noise, limit = self.runner.baseline.noise, self.experiment.script.tolerance
        if noise > REPEATABLE:
            wide = NOISE_FACTOR * noise
            judged = f"; plans are judged by {wide:.2g}" if wide > limit else ""
            self.say(f"two launches of the baseline differ by {noise:.1e}: the script is not repeatable{judged}")

    def _launch(self, *, first: bool) -> Row:
        plan, workload = self.experiment.space.baseline, self.experiment.workloads[MAIN]
        for _ in range(ATTEMPTS):
            result = self.runner.run(plan, workload, None, 0 if first else None, role=Role.BASELINE)
            self.note(result, plan)
            if result.outcome is not Outcome.PREEMPTED:
                break
        if result.outcome is not Outcome.OK:
            command = self.experiment.repeat(plan, MAIN, {})
            raise MeasurementError(
                f"the script as it stood ended with {result.outcome}: {result.row['outcome_reason']}; "
                f"to see what it printed: {command}"
            )
        if result.row["tokens_per_s"] is None:
            raise InputError(
                f"nobody knows how many {result.row['rate_of']} a step of {workload.name} holds "
                f"({result.row['samples_from']}), so that plans cannot be compared; say it in the knobs file, such as "
                'samples_per_step = "micro_batch_size * world_size"'
            )
        return result.row

    def _baseline(self, rows: Sequence[Row]) -> Baseline:
        one, *others = (self._curve(row["trial_id"]) for row in rows)
        steps = self.runner.measurement.warmup_steps
        noise = max((numerics.within(one, other, 1.0, steps).max_rel_error for other in others), default=math.inf)
        self.runner.store.write_reference(rows[0]["workload_id"], self._reference(rows[0]["trial_id"]))
        return Baseline(curve=one, noise=noise, samples_per_step=rows[0]["samples_per_step"])

    def _steps(self, trial_id: str) -> Any:
        steps = self.runner.store.steps(self.runner.sweep, self.runner.hardware_id)
        return steps[steps["trial_id"] == trial_id].groupby("step")[["loss", "grad_norm", "step_time_s"]].mean()

    def _curve(self, trial_id: str) -> Curve:
        means = self._steps(trial_id)
        losses, norms = (list(means[name].dropna()) for name in ("loss", "grad_norm"))
        return Curve(losses, norms, "baseline", "the baseline")

    def _reference(self, trial_id: str) -> list[dict[str, Any]]:
        means = self._steps(trial_id).dropna(subset=["loss"])
        return [
            {
                "step": int(step),
                "loss": float(row["loss"]),
                "grad_norm": None if math.isnan(row["grad_norm"]) else float(row["grad_norm"]),
                "step_time_s": float(row["step_time_s"]),
                "arithmetic": "the baseline's",
            }
            for step, row in means.iterrows()
        ]
