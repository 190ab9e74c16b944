"""A night of a script: its plans, launched by its own command.

Tonight's plans are compared with tonight's script, and nights with nights. The reference plan is launched twice,
briefly, when a night begins; the first losses of every launch must be those of the first of the two, within the knobs
file's tolerance or three times what the two differ by. A plan that computes something else than the script under the
same code is not measured (`numerics`). A change that moves the losses of all plans alike is no such fault: the rule
of the last loss judges it against the nights before (`harness.nightly.last_loss`), as it judges workloads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import launchers
from harness.errors import InputError
from harness.launchers.job import Measurement
from harness.launchers.script import check
from harness.machine import hardware
from harness.nightly.history import Session
from harness.nightly.night import NightRun, Surroundings, measurement
from harness.nightly.recipe_night import run_canary
from harness.nightly.script_suite import knobs_path, repository
from harness.nightly.suite import Suite
from harness.plan import Plan
from harness.rank import preload_for
from harness.scripts import knobs_file
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.lanes import ScriptWorkload, plan_of
from harness.store.records import Role
from harness.sweeps import experiment, script_baseline
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment, check_writable
from harness.sweeps.runners import make_runner
from harness.sweeps.script_experiment import START_S, kernels
from harness.trial.recorder import Launched, Result
from harness.trial.runner import Runner
from harness.trial.script_runner import ScriptRunner

REFERENCE_STEPS = Measurement()
"""Of the reference plan's two launches: as many as are compared, and the fewest that make a trial."""
NO_SEEDS = "a script has no other seeds that could be measured; if the loss is right, accept it: nightly ack"


def plans(suite: Suite, script: KnobsFile) -> dict[str, Plan]:
    """The suite's plans of a script, with the knobs that a plan leaves out at their defaults.

    Raises:
        InputError: a knob or value that the knobs file does not have.
    """
    found = {}
    for name in suite.plans:
        try:
            found[name] = plan_of(script, suite.settings(name))
        except InputError as error:
            raise InputError(f"the plan {name!r} of the suite {suite.name!r}: {error}") from None
    return found


@dataclass(kw_only=True)
class ScriptNight(NightRun):
    """Measures and judges one night of a script.

    Args:
        script: its knobs file.
        canary: launches the canary, on the ranks of `bench`.
        bench: any workload, which is not trained.
    """

    runner: ScriptRunner
    script: KnobsFile
    canary: Runner
    bench: Experiment

    def _plans(self) -> dict[str, Plan]:
        return plans(self.suite, self.script)

    def _launch(self, name: str) -> Result:
        return self.runner.run(self.plans[name], self.runner.main, None, Launched(role=Role.NIGHTLY))

    def _seeds(self, names: Sequence[str]) -> list[Session]:
        self.say(f"{', '.join(names)}: {NO_SEEDS}")
        return []

    def _canary(self) -> dict[str, float]:
        return run_canary(self.canary, self.bench)


class Script:
    """A suite of a script, checked on this machine. Nothing is written, and nothing started.

    Args:
        suite: of a script.
        path: its file, from whose folder paths are meant; None: from here.
        config: where results go, and how the machine is called.

    Raises:
        InputError: anything that cannot work.
    """

    def __init__(self, suite: Suite, path: Path | None, config: SweepConfig) -> None:
        self.suite, self.config = suite, config
        check_writable(config.results)
        check_writable(config.reports)
        self.script = knobs_file.read(knobs_path(suite, path), suite.script)
        self.plans = plans(suite, self.script)
        if "{" not in self.script.command[0]:
            check(self.script.command, self.script.workdir)
        self.repository = repository(self.script.workdir)
        self.hardware = replace(hardware.detect(), label=config.hardware_label)
        reasons = {name: self.script.why_not(self.script.plan(plan)) for name, plan in self.plans.items()}
        self.refused = {name: f"it cannot run here: {reason}" for name, reason in reasons.items() if reason is not None}
        self._bench = experiment.prepare(replace(config, script=None, knobs=None, world_size=1))

    @property
    def reference(self) -> str:
        """Name of the plan that the others are compared with."""
        return self.suite.reference or next(iter(self.suite.plans))

    def get_ready(self) -> None:
        """Nothing: the script reads what it needs."""

    @contextmanager
    def opened(self, around: Surroundings) -> Iterator[ScriptNight]:
        """What measures a night, with a reference that was launched; without one that ended well, no plan can run."""
        runner = self._runner(around)
        refused = dict(self.refused)
        if self.reference not in refused:
            reason = self._compared(runner, around)
            refused |= dict.fromkeys(self.plans, reason) if reason else {}
        else:
            reason = f"the reference plan {self.reference!r} cannot run: {refused[self.reference]}"
            refused = dict.fromkeys(self.plans, reason) | refused
        runner.measurement = measurement(self.suite)
        with launchers.create("local", preload_for(self._bench.config.workload)) as launcher:
            launcher.warm_up()
            yield ScriptNight(
                suite=self.suite,
                script=self.script,
                runner=runner,
                canary=make_runner(self._bench, launcher, around.store, around.sweep),
                bench=self._bench,
                history=around.history,
                environment=around.environment,
                refused=refused,
                seconds=around.seconds,
                say=around.say,
            )

    def _runner(self, around: Surroundings) -> ScriptRunner:
        reference = self.plans[self.reference]
        main, apart = (ScriptWorkload(self.script, reference, is_apart) for is_apart in (False, True))
        return ScriptRunner(
            store=around.store,
            hardware_id=self.hardware.hardware_id,
            sweep=around.sweep,
            measurement=REFERENCE_STEPS,
            deadlines=replace(self.config.deadlines, start=START_S),
            devices=self.hardware.devices,
            script=self.script,
            main=main,
            apart=apart,
            cache=kernels(self.config.results),
            rated=False,
        )

    def _compared(self, runner: ScriptRunner, around: Surroundings) -> str | None:
        """Launch what plans are compared with; returns why it could not be measured."""
        around.say(f"the reference plan {self.reference}, launched twice: what tonight's plans are compared with")
        failed = script_baseline.measure(runner, self.plans[self.reference])
        if failed is None:
            return None
        why = failed.row["outcome_reason"]
        return f"the reference plan {self.reference!r} ended with {failed.outcome}: {why}"
