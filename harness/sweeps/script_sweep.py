"""A sweep over the plans of somebody's script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError, MeasurementError
from harness.store import standings
from harness.store.records import Outcome, Role
from harness.sweeps import script_baseline
from harness.sweeps.script_experiment import APART, MAIN, ScriptExperiment, kernels
from harness.sweeps.sweep import Sweep
from harness.trial import script_summary
from harness.trial.recorder import Result
from harness.trial.script_runner import NOISE_FACTOR, ScriptRunner

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
        rows = self.store.rows(self.name, self.hardware_id)
        known = [row for row in rows if row["role"] == Role.BASELINE and row["outcome"] in standings.USABLE]
        plan = self.experiment.space.baseline
        if not known:
            self.display.message("the script as it stood, launched twice: what its other plans are compared with")
        failed = script_baseline.measure(self._runner, plan, known, self._note, study_trial=0, kept=True)
        if failed is not None:
            command = self.experiment.repeat(plan, MAIN, {})
            raise MeasurementError(
                f"the script as it stood ended with {failed.outcome}: {failed.row['outcome_reason']}; "
                f"to see what it printed: {command}"
            )
        assert self._runner.baseline is not None
        noise, limit = self._runner.baseline.noise, self.experiment.script.tolerance
        if noise > REPEATABLE:
            wide = NOISE_FACTOR * noise
            judged = f"; plans are judged by {wide:.2g}" if wide > limit else ""
            self.display.message(
                f"two launches of the baseline differ by {noise:.1e}: the script is not repeatable{judged}"
            )

    def _note(self, result: Result) -> None:
        """A launch of the baseline was recorded. Raises InputError where its speed could not be compared."""
        row = result.row
        self.launches.note(result, self.experiment.space.baseline)
        if result.outcome is Outcome.OK and row["tokens_per_s"] is None:
            raise InputError(
                f"nobody knows how many {row['rate_of']} a step of {row['workload']} holds ({row['samples_from']}), so "
                "that plans cannot be compared; say it in the knobs file, such as "
                'samples_per_step = "micro_batch_size * world_size"'
            )
        if self._runner.baseline is None and (warning := script_summary.alone(row)) is not None:
            self.display.message(f"warning: {warning}")

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
