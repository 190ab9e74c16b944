"""A sweep over the plans of somebody's script."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError, MeasurementError
from harness.store import standings
from harness.store.records import Outcome, Role
from harness.sweeps.script_experiment import APART, MAIN, ScriptExperiment, kernels
from harness.sweeps.sweep import Sweep
from harness.trial import numerics
from harness.trial.numerics import Curve
from harness.trial.script_runner import Baseline, ScriptRunner

LAUNCHES = 2
"""Of the baseline: what they differ by is no fault of a plan."""
ATTEMPTS = 3
"""How often one is begun that the system takes away each time."""
REPEATABLE = 1e-6
"""Relative difference of two launches that is rounding."""


@dataclass
class ScriptSweep(Sweep):
    """One run of a sweep."""

    experiment: ScriptExperiment

    def _make_runner(self) -> ScriptRunner:
        made, config = self.experiment, self.experiment.config
        self._runner = ScriptRunner(
            store=self.store,
            hardware_id=self.hardware_id,
            sweep=self.name,
            measurement=made.measurement,
            deadlines=made.deadlines,
            devices=made.hardware.devices,
            on_step=self.display.step,
            script=made.script,
            main=made.workloads[MAIN],
            apart=made.workloads[APART],
            cache=kernels(config.results),
            keep=config.results / "kept" / self.name if config.keep else None,
        )
        return self._runner

    def _resume(self, info: Mapping[str, Any]) -> None:
        """There is nothing to remember but the trials."""

    def _prepare(self) -> None:
        """The script as it stood, launched twice."""
        known = [row for row in self._rows() if row["role"] == Role.BASELINE and row["outcome"] in standings.USABLE]
        if known:
            self._runner.baseline = self._baseline(known[:LAUNCHES])
        else:
            self.display.message("the script as it stood, launched twice: what its other plans are compared with")
        while len(known) < LAUNCHES:
            known.append(self._launch(first=not known))
            self._runner.baseline = self._baseline(known)
        baseline, limit = self._runner.baseline, self.experiment.script.tolerance
        assert baseline is not None
        noise = baseline.noise
        if noise > REPEATABLE:
            judged = f"; plans are judged by {max(limit, 3 * noise):.2g}" if 3 * noise > limit else ""
            self.display.message(
                f"two launches of the baseline differ by {noise:.1e}: the script is not repeatable{judged}"
            )

    def _rows(self) -> list[dict[str, Any]]:
        return self.store.rows(self.name, self.hardware_id)

    def _launch(self, *, first: bool) -> dict[str, Any]:
        plan, workload = self.experiment.space.baseline, self.experiment.workloads[MAIN]
        for _ in range(ATTEMPTS):
            result = self._runner.run(plan, workload, None, 0 if first else None, role=Role.BASELINE)
            self.launches.note(result, plan)
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

    def _baseline(self, rows: list[dict[str, Any]]) -> Baseline:
        one, *others = (self._curve(row["trial_id"]) for row in rows)
        steps = self.experiment.measurement.warmup_steps
        noise = max((numerics.within(one, other, 1.0, steps).max_rel_error for other in others), default=math.inf)
        self.store.write_reference(rows[0]["workload_id"], self._reference(rows[0]["trial_id"]))
        return Baseline(curve=one, noise=noise, samples_per_step=rows[0]["samples_per_step"])

    def _steps(self, trial_id: str) -> Any:
        steps = self.store.steps(self.name, self.hardware_id)
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
                "grad_norm": None if row["grad_norm"] != row["grad_norm"] else float(row["grad_norm"]),
                "step_time_s": float(row["step_time_s"]),
                "arithmetic": "the baseline's",
            }
            for step, row in means.iterrows()
        ]

    def _about(self) -> dict[str, Any]:
        made = self.experiment
        return {
            "script": {
                "command": list(made.script.command),
                "workdir": str(made.script.workdir),
                "knobs": str(made.config.knobs),
                "baseline": dict(made.space.baseline),
            },
            "workload": {"name": made.workloads[MAIN].name, "workload_id": made.workloads[MAIN].workload_id},
        }

    def _finish(self) -> None:
        """Nothing is predicted of scripts, so nothing is kept for comparisons."""
