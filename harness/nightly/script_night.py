"""A night of somebody's script: its plans are launched as those of a workload, and judged as those are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import InputError
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Finding
from harness.nightly.history import Night, Session
from harness.nightly.night import NightRun
from harness.plan import Plan
from harness.store.records import Role
from harness.sweeps.baselines import Baselines
from harness.sweeps.script_experiment import MAIN, ScriptExperiment
from harness.trial.recorder import Result
from harness.trial.script_runner import ScriptRunner


@dataclass(kw_only=True)
class ScriptNight(NightRun):
    """One night.

    The baseline is launched anew: tonight's plans must compute what tonight's script computes as it stands. That the
    script itself learns otherwise than in the nights before is what the metric loss_last is for.

    Args:
        experiment: the script.
        runner: launches; its sweep is that of the suite.
        canary: what a plain program takes on this machine now.
    """

    experiment: ScriptExperiment
    runner: ScriptRunner
    canary: Callable[[], dict[str, float]]

    def run(self, entries: Sequence[Acknowledgement]) -> tuple[Night, tuple[Finding, ...]]:
        """As `NightRun.run`. Raises MeasurementError too: the script does not run as it stands."""
        Baselines(self.experiment, self.runner, self.say).measure()
        return super().run(entries)

    def _plans(self) -> Mapping[str, Plan]:
        found = {}
        for name, settings in self.suite.plans.items():
            try:
                found[name] = self.experiment.space.plan(settings)
            except InputError as error:
                raise InputError(f"the plan {name!r} of the suite {self.suite.name!r}: {error}") from None
        return found

    @property
    def rank_memory(self) -> int | None:
        return None

    def _result(self, name: str) -> Result:
        return self.runner.run(self.plans[name], self.experiment.workloads[MAIN], None, role=Role.NIGHTLY)

    def _canary(self) -> dict[str, float]:
        return self.canary()

    def _seeds(self, names: Sequence[str]) -> list[Session]:
        """Nobody but the script can choose its seed."""
        return []
