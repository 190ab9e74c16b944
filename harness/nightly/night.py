"""One night: the suite's plans in turns, the canary around them, more sessions on suspicion, then the verdicts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from harness.launchers.job import Measurement
from harness.nightly.acknowledge import Acknowledgement
from harness.nightly.findings import Finding, Verdict
from harness.nightly.history import CONFIRM, SCREEN, History, Night, Session, new_night
from harness.nightly.judge import judge
from harness.nightly.suite import METRICS, Suite
from harness.plan import Plan
from harness.store.standings import USABLE
from harness.store.store import Store
from harness.trial.recorder import Recorder, Result

RESUMED_FOR = timedelta(hours=12)
"""A night that was cut short is taken up for so long; then a new one begins."""
ALL_GREEN, REGRESSION, NOT_MEASURED = 0, 1, 3


def measurement(suite: Suite) -> Measurement:
    """Always the same number of steps, however long they take."""
    return Measurement(min_steps=suite.steps, max_steps=suite.steps, seconds=float("inf"))


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a night is given, whatever is trained; `NightRun` says what each is."""

    store: Store
    sweep: str
    """In which the trials are recorded."""
    history: History
    environment: dict[str, str]
    seconds: float | None
    say: Callable[[str], None]


@dataclass(kw_only=True)
class NightRun(ABC):
    """Measures and judges one night.

    Args:
        suite: what to measure.
        runner: launches; its sweep is that of the suite.
        history: where nights are kept.
        environment: versions and settings that numbers depend on.
        refused: plan -> why it cannot run here.
        seconds: of the whole night; None for no limit.
        say: told of progress.
        clock: monotonic time, in s.
    """

    suite: Suite
    runner: Recorder
    history: History
    environment: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    say: Callable[[str], None] = lambda text: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.plans = self._plans()
        """Of the suite, by name."""

    # -- what differs between what is trained

    @abstractmethod
    def _plans(self) -> dict[str, Plan]:
        """The suite's plans on this machine. Raises InputError."""

    @abstractmethod
    def _launch(self, name: str) -> Result:
        """Launch a plan of the suite once."""

    @abstractmethod
    def _seeds(self, names: Sequence[str]) -> list[Session]:
        """The last losses of plans with other seeds; [] where there are none."""

    @abstractmethod
    def _canary(self) -> dict[str, float]:
        """Seconds of the canary's parts; {} if it could not be measured."""

    # -- what does not

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
            self.runner.rank_memory,
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
            self._note(session, name, self._launch(name))
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
        """Keep what a launch of a plan came to."""
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


def exit_code(findings: Sequence[Finding]) -> int:
    """1 only if something got worse, 3 if something could not be measured, else 0."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.CONFIRMED in verdicts:
        return REGRESSION
    return NOT_MEASURED if Verdict.NOT_MEASURED in verdicts else ALL_GREEN
