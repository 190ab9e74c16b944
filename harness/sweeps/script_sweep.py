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
from harness.trial.script_runner import Baseline, ScriptRunner

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
            self._runner.baseline = self._baseline(known[: script_baseline.LAUNCHES])
        else:
            self.display.message("the script as it stood, launched twice: what its other plans are compared with")
        while len(known) < script_baseline.LAUNCHES:
            known.append(self._launch(first=not known))
            self._runner.baseline = self._baseline(known)
        if (warning := script_summary.alone(known[0])) is not None:
            self.display.message(f"warning: {warning}")
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
        for _ in range(script_baseline.ATTEMPTS):
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
        return script_baseline.of(self.store, self.hardware_id, self.name, rows, kept=True)

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
