"""A sweep over the plans of somebody's script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.sweeps.baselines import Baselines, make_runner
from harness.sweeps.script_experiment import MAIN, ScriptExperiment
from harness.sweeps.sweep import Sweep
from harness.trial.script_runner import ScriptRunner


@dataclass
class ScriptSweep(Sweep):
    """One run of a sweep."""

    experiment: ScriptExperiment

    def _make_runner(self) -> ScriptRunner:
        self._runner = make_runner(self.experiment, self.store, self.name, self.display.step)
        return self._runner

    def _resume(self, info: Mapping[str, Any]) -> None:
        """There is nothing to remember but the trials."""

    def _prepare(self) -> None:
        """The script as it stood, launched twice."""
        baselines = Baselines(self.experiment, self._runner, self.display.message, self.launches.note)
        baselines.measure(self.store.rows(self.name, self.hardware_id))

    def _about(self) -> dict[str, Any]:
        made = self.experiment
        asked = {"script": made.config.script, "knobs": str(made.config.knobs)}
        return {
            "request": {name: value for name, value in asked.items() if value is not None},
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
