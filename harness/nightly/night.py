"""One night: the suite's plans in turns, the canary around them, more sessions on suspicion, then the verdicts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from harness.errors import InputError, MeasurementError
from harness.launchers.job import Measurement
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import CONFIRM, SCREEN, SEEDS, History, Night, Session, new_night
from harness.nightly.judge import judge
from harness.nightly.last_loss import FEWEST_SEEDS
from harness.nightly.suite import METRICS, Suite
from harness.plan import Plan, upgraded
from harness.rank import canary
from harness.store.records import Role
from harness.store.standings import USABLE
from harness.sweeps.experiment import Experiment
from harness.sweeps.references import References
from harness.trial.recorder import Result
from harness.trial.runner import Runner
from harness.workloads.workload import Workload

RESUMED_FOR = timedelta(hours=12)
"""A night that was cut short is taken up for so long; then a new one begins."""
ALL_GREEN, REGRESSION, NOT_MEASURED = 0, 1, 3


def measurement(suite: Suite) -> Measurement:
    """Always the same number of steps, however long they take."""
    return Measurement(min_steps=suite.steps, max_steps=suite.steps, seconds=float("inf"))


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
class NightRun(ABC):
    """Measures and judges one night, whatever its plans are.

    Args:
        suite: what to measure.
        history: where nights are kept.
        environment: versions and settings that numbers depend on.
        refused: plan -> why it cannot run here.
        seconds: of the whole night; None for no limit.
        say: told of progress.
        clock: monotonic time, in s.
    """

    suite: Suite
    history: History
    environment: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    say: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.plans: Mapping[str, Plan] = self._plans()

    @abstractmethod
    def _plans(self) -> Mapping[str, Plan]:
        """Those of the suite. Raises InputError."""

    @abstractmethod
    def _result(self, name: str) -> Result:
        """Launch a plan and record it."""

    @abstractmethod
    def _canary(self) -> dict[str, float]:
        """What a plain program takes on this machine now, in s."""

    @abstractmethod
    def _seeds(self, names: Sequence[str]) -> list[Session]:
        """The last losses of plans with other seeds; none where nobody can choose a seed."""

    @property
    @abstractmethod
    def rank_memory(self) -> int | None:
        """What one rank may hold, in B."""

    def run(self, entries: Sequence[Acknowledgement]) -> tuple[Night, tuple[Finding, ...]]:
        """Measure, judge and record.

        Args:
            entries: acknowledgements.

        Raises:
            KeyboardInterrupt: what was measured until then is kept, and the next run goes on with it.
            StoreError: the results cannot be written.
        """
        past = self.history.nights()
        tonight = self._taken_up(past) or self._new()
        past = [night for night in past if night.night != tonight.night]
        session = tonight.screened()
        if session is None:
            session = Session(purpose=SCREEN)
            tonight.sessions.append(session)
        self._fill(tonight, session, list(self.plans))
        found = judge(
            self.suite,
            past,
            tonight,
            entries,
            lambda names: self._again(tonight, names),
            self.rank_memory,
            self._seeds,
        )
        tonight.verdicts = [finding.to_json() for finding in found]
        tonight.complete = True
        self.history.write(tonight)
        return tonight, found

    def _new(self) -> Night:
        return Night(
            night=new_night(),
            suite=self.suite.name,
            version=self.suite.version,
            hardware_id=self.history.folder.name,
            machine_id=self.history.machine_id,
            identities={name: self.suite.identity(name) for name in self.plans},
            environment=self.environment,
        )

    def _taken_up(self, past: Sequence[Night]) -> Night | None:
        """The last night if it was cut short not long ago, in the same environment."""
        if not past or past[-1].complete or past[-1].environment != self.environment:
            return None
        began = datetime.strptime(past[-1].night.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        wanted = {name: self.suite.identity(name) for name in self.plans}
        fits = past[-1].identities == wanted and datetime.now(UTC) - began < RESUMED_FOR
        return past[-1] if fits else None

    def _again(self, tonight: Night, names: Sequence[str]) -> list[Session]:
        """Fresh sessions of the suspects; they are kept as they come."""
        self.say(f"measuring {', '.join(names)} again")
        sessions: list[Session] = []
        for number in range(1, self.suite.sessions + 1):
            if not self._time_left():
                break
            self.say(f"session {number} of {self.suite.sessions}")
            session = Session(purpose=CONFIRM)
            self._fill(tonight, session, names, keep=False)
            sessions.append(session)
        return sessions

    def _fill(self, tonight: Night, session: Session, names: Sequence[str], *, keep: bool = True) -> None:
        """Launch what a session lacks, in turns, between two runs of the canary."""
        before = self._canary()
        for number, name in self._due(session, names):
            if not self._time_left():
                break
            self._note(session, name, self._result(name))
            self.say(f"launch {number} of {self.suite.launches}: {name}")
            if keep:
                self.history.write(tonight)
        runs = [found for found in (before, self._canary(), session.canary) if found]
        session.canary = {part: sum(run[part] for run in runs) / len(runs) for part in (runs[0] if runs else {})}

    def _due(self, session: Session, names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """A B C, C B A, A B C: a machine that slows down steadily favours nobody."""
        for number in range(1, self.suite.launches + 1):
            for name in names if number % 2 else list(names)[::-1]:
                done = len(session.trials.get(name, []))
                if name not in self.refused and done < number:
                    yield number, name
                elif name in self.refused:
                    session.failures[name] = [self.refused[name]]

    def _note(self, session: Session, name: str, result: Result, metrics: Collection[str] = tuple(METRICS)) -> None:
        """What a launch came to, in its session."""
        session.trials.setdefault(name, []).append(result.trial_id)
        row = result.row
        if row["outcome"] not in USABLE:
            reason = f"a launch ended with {row['outcome']}: {row['outcome_reason']}"
            session.failures.setdefault(name, []).append(reason)
            return
        values = session.values.setdefault(name, {})
        for metric in metrics:
            if row.get(metric) is not None:
                values.setdefault(metric, []).append(float(row[metric]))

    def _time_left(self) -> bool:
        return self.seconds is None or self.clock() - self.began < self.seconds


@dataclass(kw_only=True)
class RecipeNight(NightRun):
    """A night of a workload.

    Args:
        experiment: the workload on this machine.
        runner: launches; its sweep is that of the suite.
        references: what losses are compared with; that of the suite's own workload is known.
    """

    experiment: Experiment
    runner: Runner
    references: References

    def __post_init__(self) -> None:
        super().__post_init__()
        self.workload = next(iter(self.experiment.workloads.values()))

    def _plans(self) -> Mapping[str, Plan]:
        return plans(self.suite, self.experiment)

    @property
    def rank_memory(self) -> int | None:
        return self.runner.rank_memory

    def _result(self, name: str) -> Result:
        return self._of(name, self.workload)

    def _of(self, name: str, workload: Workload) -> Result:
        plan, facts = self.plans[name], self.experiment.facts(workload)
        twin = self.references.twin(plan, workload)
        known = self.references.columns(workload, twin)
        if twin is not None and not twin.passed:
            return self.runner.refuse(plan, workload, str(twin.reason), None, known, twin.outcome, Role.NIGHTLY)
        return self.runner.run(plan, workload, facts, role=Role.NIGHTLY, expected=known)

    def _seeds(self, names: Sequence[str]) -> list[Session]:
        """The last losses of plans with other seeds, each checked against its own fp32 reference like any launch."""
        session = Session(purpose=SEEDS)
        for number in range(1, FEWEST_SEEDS + 1):
            workload = replace(self.workload, seed=self.workload.seed + number)
            self.say(f"seed {number} of {FEWEST_SEEDS} of {', '.join(names)}: the versions are new")
            for name in names:
                if not self._time_left() or not self._referenced(workload):
                    return [session]
                self._note(session, name, self._of(name, workload), ("loss_last",))
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

    def _canary(self) -> dict[str, float]:
        return canary_of(self.runner, self.experiment)


def canary_of(runner: Runner, experiment: Experiment) -> dict[str, float]:
    """What a plain program takes here now, in s, by part."""
    workload = next(iter(experiment.workloads.values()))
    alone, facts = experiment.reference_plan(workload), experiment.facts(workload, 1)
    found: dict[str, Any] | None = runner.apart(alone, workload, facts, canary.main, canary.FILE)
    return {name: float(value) for name, value in (found or {}).items()}


def exit_code(findings: Sequence[Finding]) -> int:
    """1 only if something got worse, 3 if something could not be measured, else 0."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.CONFIRMED in verdicts:
        return REGRESSION
    return NOT_MEASURED if Verdict.NOT_MEASURED in verdicts else ALL_GREEN
