"""A night of a workload: its plans under the strategies of this package, compared with references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import strategies
from harness import launchers
from harness.errors import InputError, MeasurementError
from harness.machine.hardware import Hardware
from harness.nightly.history import SEEDS, Session
from harness.nightly.last_loss import FEWEST_SEEDS
from harness.nightly.night import NightRun, Surroundings, measurement
from harness.nightly.suite import Suite
from harness.plan import Plan, upgraded
from harness.rank import canary, preload_for
from harness.search.feasible import why_not
from harness.store.records import Role
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment, prepare
from harness.sweeps.references import References, references_of
from harness.sweeps.runners import make_runner
from harness.trial.recorder import Launched, Result
from harness.trial.runner import Runner
from harness.workloads.workload import Workload


def plans(suite: Suite, experiment: Experiment) -> dict[str, Plan]:
    """The suite's plans on this machine.

    Raises:
        InputError: a knob or value that this version does not know.
    """
    found = {}
    for name in suite.plans:
        try:
            found[name] = _plan(suite, name, experiment)
        except InputError as error:
            raise InputError(f"the plan {name!r} of the suite {suite.name!r}: {error}") from None
    return found


def _plan(suite: Suite, name: str, experiment: Experiment) -> Plan:
    """A plan of the suite, whose settings may be in the words of an earlier version and leave out what is usual."""
    given = suite.plans[name]
    usual = experiment.plan({knob: value for knob, value in given.items() if knob != "bucket_mb"})
    return experiment.plan(upgraded({**usual, **given}, suite.schema_version))


@dataclass(kw_only=True)
class RecipeNight(NightRun):
    """Measures and judges one night of a workload.

    Args:
        experiment: its workload on this machine.
        references: what losses are compared with; that of the suite's own workload is known.
    """

    runner: Runner
    experiment: Experiment
    references: References

    def __post_init__(self) -> None:
        super().__post_init__()
        self.workload = next(iter(self.experiment.workloads.values()))

    def _plans(self) -> dict[str, Plan]:
        return plans(self.suite, self.experiment)

    def _seeds(self, names: Sequence[str]) -> list[Session]:
        """The last losses of plans with other seeds, each checked against its own fp32 reference like any launch."""
        session = Session(purpose=SEEDS)
        for number in range(1, FEWEST_SEEDS + 1):
            workload = replace(self.workload, seed=self.workload.seed + number)
            self.say(f"seed {number} of {FEWEST_SEEDS} of {', '.join(names)}: the versions are new")
            for name in names:
                if not self._time_left() or not self._referenced(workload):
                    return [session]
                self._note(session, name, self._launched(name, workload), ("loss_last",))
        return [session]

    def _referenced(self, workload: Workload) -> bool:
        """Whether there is something to compare the losses of a workload with, or it could be measured."""
        workload.prepare()
        try:
            self.references.prepare(workload)
        except MeasurementError as error:
            self.say(f"warning: {error}")
            return False
        return True

    def _launch(self, name: str) -> Result:
        return self._launched(name, self.workload)

    def _launched(self, name: str, workload: Workload) -> Result:
        plan, facts = self.plans[name], self.experiment.facts(workload)
        twin = self.references.twin(plan, workload)
        known = self.references.columns(workload, twin)
        if twin is not None and not twin.passed:
            return self.runner.refuse(plan, workload, str(twin.reason), None, known, twin.outcome, Role.NIGHTLY)
        return self.runner.run(plan, workload, facts, Launched(role=Role.NIGHTLY, beside=known))

    def _canary(self) -> dict[str, float]:
        return run_canary(self.runner, self.experiment)


def run_canary(runner: Runner, experiment: Experiment) -> dict[str, float]:
    """Seconds of the canary's parts; {} if it could not be measured. It trains nothing of the experiment's workload."""
    workload = next(iter(experiment.workloads.values()))
    alone, facts = experiment.reference_plan(workload), experiment.facts(workload, 1)
    found: dict[str, Any] | None = runner.apart(alone, workload, facts, canary.main, canary.FILE)
    return {name: float(value) for name, value in (found or {}).items()}


class Recipe:
    """A suite of a workload, checked on this machine. Nothing is written, and nothing started.

    Raises:
        InputError: anything that cannot work.
    """

    repository: Path | None = None
    """Of what is measured, as far as a suite tells."""

    def __init__(self, suite: Suite, config: SweepConfig) -> None:
        self.suite, self.experiment = suite, prepare(config)
        self.hardware: Hardware = self.experiment.hardware
        facts = self.experiment.facts(next(iter(self.experiment.workloads.values())))
        found = plans(suite, self.experiment)
        reasons = {name: why_not(plan, facts, strategies.registry().values()) for name, plan in found.items()}
        self.refused = {name: f"it cannot run here: {reason}" for name, reason in reasons.items() if reason is not None}

    def get_ready(self) -> None:
        """What a workload writes before it is trained. Raises InputError."""
        next(iter(self.experiment.workloads.values())).prepare()

    @contextmanager
    def opened(self, around: Surroundings) -> Iterator[RecipeNight]:
        """What measures a night, with references that were trained; raises as `References.prepare`."""
        with launchers.create("local", preload_for(self.experiment.config.workload)) as launcher:
            launcher.warm_up()
            runner = make_runner(self.experiment, launcher, around.store, around.sweep)
            runner.measurement = measurement(self.suite)
            yield RecipeNight(
                suite=self.suite,
                experiment=self.experiment,
                runner=runner,
                references=references_of(self.experiment, runner, around.say),
                history=around.history,
                environment=around.environment,
                refused=self.refused,
                seconds=around.seconds,
                say=around.say,
            )
