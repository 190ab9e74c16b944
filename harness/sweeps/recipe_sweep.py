"""A sweep over the plans of a workload, under strategies of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.launchers.launcher import Launcher
from harness.sweeps import about, target_loss
from harness.sweeps.experiment import Experiment
from harness.sweeps.references import REFERENCE_STEPS, References
from harness.sweeps.runners import calibrated, make_forecaster, make_runner
from harness.sweeps.sweep import Sweep
from harness.trial import calibrate
from harness.trial.runner import Runner


@dataclass
class RecipeSweep(Sweep):
    """One run of a sweep.

    Args:
        launcher: starts the ranks; the caller closes it.
    """

    experiment: Experiment
    launcher: Launcher

    def __post_init__(self) -> None:
        super().__post_init__()
        self.references = References(experiment=self.experiment, say=self.display.message)
        self.launches.references = self.references

    def _make_runner(self) -> Runner:
        runner = make_runner(self.experiment, self.launcher, self.store, self.name, self.display.step)
        self.references.runner = self._runner = runner
        return runner

    def _resume(self, info: Mapping[str, Any]) -> None:
        self.references.resume(info.get("references", {}))

    def _prepare(self) -> None:
        """What every trial is compared with: the references, and the machine's peak."""
        timed = self.experiment.config.objective == "time-to-loss"
        for workload in self.experiment.workloads.values():
            self.references.prepare(workload, target_loss.STEPS if timed else REFERENCE_STEPS)
        self._write_info(None)  # what plans are compared with, for a run that resumes this one
        if timed:
            self._runner.steps_to_loss = self._steps_to_loss()
        if self.store.peaks(self.hardware_id) is None:
            self.display.message("measuring what this machine can do, about 15 s, once")
        guided = self.experiment.config.sampler == "guided"
        found = calibrated(self.experiment, self._runner, probed=guided)
        self.launches.forecaster = make_forecaster(self.experiment, found.ranks, self.launches.compared)
        if any(calibrate.disturbed(part) for part in (found.peak, found.ranks) if part):
            self.display.message("the machine was busy while it was measured: the next sweep measures it again")
        if found.peak is None:
            self.display.message("the machine's peak could not be measured: no MFU")
        if guided and self.launches.forecaster.device is not None and not self.launches.forecaster.device.probed:
            self.display.message("no short trainings were measured: step times are predicted from single operators")

    def _steps_to_loss(self) -> dict[str, int]:
        known = self._runner.references
        found = {w.workload_id: known.get(w.workload_id) for w in self.experiment.workloads.values()}
        target, steps = target_loss.steps(found, self.experiment.config.target_loss)
        self.display.message(f"time to a loss of {target:.4g}")
        return steps

    # -- after

    @property
    def _training_s(self) -> float:
        return self.launches.training_s + self.references.training_s

    def _finish(self) -> None:
        """Keep what is predicted beside what was measured of the machine, for comparisons."""
        known = self.store.peaks(self.hardware_id) or {}
        size = str(self.experiment.world_size)
        bandwidth = known.get("interconnect", {}).get(size, {}).get("all_reduce_bytes_per_s")
        predicted: dict[str, Any] = dict(known.get("predicted", {}))
        for batch, workload in self.experiment.workloads.items():
            found = self.launches.forecaster.overtakings(batch) if bandwidth else []
            if found:
                rows = [{"below": o.below, "above": o.above, "bytes_per_s": o.factor * bandwidth} for o in found]
                predicted[workload.workload_id] = {**predicted.get(workload.workload_id, {}), size: rows}
        if predicted:
            self.store.write_peaks(self.hardware_id, {**known, "predicted": predicted})

    def _about(self) -> dict[str, Any]:
        return {
            "references": self.references.chosen,
            "strategies": [strategy.name for strategy in self.experiment.strategies],
            "workload": about.describe(next(iter(self.experiment.workloads.values()))),
            "candidates": self.launches.forecaster.left_out(),
        }
