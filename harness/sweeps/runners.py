"""What launches, measures and predicts for the workloads of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.launchers.launcher import Launcher
from harness.predict import this_machine
from harness.store.store import Store
from harness.sweeps.experiment import Experiment
from harness.sweeps.forecast import Forecaster
from harness.sweeps.limits import rank_memory_bytes
from harness.sweeps.probe_plans import probes
from harness.trial import calibrate
from harness.trial.peaks import Peaks
from harness.trial.runner import Runner


def make_runner(
    experiment: Experiment, launcher: Launcher, store: Store, sweep: str, on_step: Callable[[int], None] | None = None
) -> Runner:
    """A runner for the trials of an experiment."""
    config, machine = experiment.config, experiment.hardware
    return Runner(
        launcher=launcher,
        store=store,
        hardware_id=machine.hardware_id,
        sweep=sweep,
        cores=machine.usable_cores,
        measurement=config.measurement,
        deadlines=config.deadlines,
        memory_limit=config.memory_limit_bytes,
        rank_memory=rank_memory_bytes(config, machine, experiment.world_size),
        devices=machine.devices,
        on_step=on_step,
    )


def make_forecaster(experiment: Experiment, calibration: Mapping[str, Any] | None, compared: bool) -> Forecaster:
    """What predicts the plans of an experiment; nothing is predicted without a calibration.

    Args:
        experiment: what is searched.
        calibration: what `harness.rank.calibration` wrote.
        compared: whether the objective means the same for every workload.
    """
    config, world = experiment.config, experiment.world_size
    held = rank_memory_bytes(config, experiment.hardware, world) or experiment.hardware.memory_bytes
    device = None if calibration is None else this_machine.measured(calibration, world, held)
    beside = 0 if device is None or config.memory_limit is not None else int(device.context_bytes)
    return Forecaster(
        device=device,
        workloads={size: (workload, experiment.facts(workload)) for size, workload in experiment.workloads.items()},
        objective=config.objective,
        limit_bytes=(experiment.memory_ceiling_bytes or held) - beside,
        compared=compared,
    )


@dataclass(frozen=True)
class Calibrated:
    """What a machine was measured to do; each part is None if it could not be measured."""

    peak: Mapping[str, Any] | None
    """See `harness.rank.peak`."""
    ranks: Mapping[str, Any] | None
    """See `harness.rank.calibration`."""


def calibrated(experiment: Experiment, runner: Runner, *, probed: bool = True, anew: bool = False) -> Calibrated:
    """What the machine can do, measured where it is not known; the runner's trials are judged by its peak from now on.

    Args:
        experiment: whose shapes and ranks count.
        runner: what launches.
        probed: whether short trainings are measured too, from which step times are predicted.
        anew: whether it is measured although it is known.
    """
    workload, world = next(iter(experiment.workloads.values())), experiment.world_size
    alone, facts = experiment.reference_plan(workload), experiment.facts(workload, 1)
    peak = calibrate.peaks(runner, alone, workload, facts, anew=anew)
    runner.peaks = Peaks(devices=tuple(device.name for device in experiment.hardware.devices), measured=peak)
    plan = experiment.plan({"dp": world, "micro_batch_size": 1})
    facts = experiment.facts(workload)
    asked = probes(experiment) if probed else ()
    return Calibrated(peak, calibrate.ranks(runner, plan, workload, facts, probes=asked, anew=anew))
