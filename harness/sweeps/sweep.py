"""A sweep from beginning to end: what plans are compared with, search, final launches, records, report."""

from __future__ import annotations

import contextlib
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import filelock

from harness import report
from harness.errors import InputError, StoreError
from harness.machine import nvml
from harness.plan import ONE_UNIT, Plan
from harness.report.live import Refresh
from harness.search import loop, samplers
from harness.search.evaluation import Budget, Evaluation, Event, Recorded, Summary
from harness.search.guide import first_points
from harness.search.spaces import Point, Spaces
from harness.search.study import open_study
from harness.store import standings
from harness.store.records import SCHEMA_VERSION
from harness.store.store import Store, plain_rows
from harness.sweeps import about, command_lines
from harness.sweeps.config import OBJECTIVES, Direction
from harness.sweeps.launches import FinalLaunch, Launches
from harness.sweeps.subject import Subject
from harness.trial.recorder import Recorder, Result

if TYPE_CHECKING:
    import optuna

LAUNCH_S, DEVICE_LAUNCH_S = 1.5, 10.0
"""What a launch takes beside its window, warm-up included, in s, as far as a budget is planned before any was seen: on
devices contexts, communicators and kernels take their time."""
MORE_ROUNDS = 1
"""Rounds of final launches that are planned for beyond the least."""
MOST_FOR_FINALS = 0.35
"""Share of the time left that is kept for the final launches."""
IDENTIFYING = ("CPU", "cores", "memory", "devices", "interconnect", "label", "driver", "torch")
"""What of a machine decides its hardware_id, as `Hardware.to_info` calls it."""
_FIRST = "first"
"""Attribute of a study: the points that it began with."""
_FIRST_SCHEMA = "first_schema_version"
"""Another one: in which version's words."""


class Display(Protocol):
    """What shows a sweep's progress."""

    def started(self, experiment: Any, name: str) -> None:
        """Everything was checked and the sweep begins."""

    def message(self, text: str) -> None:
        """Something to say."""

    def event(self, event: Event) -> None:
        """A trial begins or has ended."""

    def step(self, steps: int) -> None:
        """The running trial has finished so many steps."""

    def recorded(self, result: Result) -> None:
        """A trial stands in the store."""


@dataclass(frozen=True)
class Ended:
    """A sweep that is over for now."""

    name: str
    hardware_id: str
    summary: Summary
    page: Path | None
    """The report; None if there was nothing to report."""
    wall_s: float
    training_s: float


@dataclass
class Sweep(ABC):
    """One run of a sweep.

    Args:
        experiment: what to search, checked.
        display: told of everything that happens.
        began: monotonic time from which the time budget counts, in s.
    """

    experiment: Subject
    display: Display
    began: float = field(default_factory=time.monotonic, kw_only=True)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC), kw_only=True)

    def __post_init__(self) -> None:
        config, workload = self.experiment.config, next(iter(self.experiment.workloads.values()))
        self.name = config.name or about.new_name(workload.name, self.started_at)
        self.hardware_id = self.experiment.hardware.hardware_id
        self.store = Store(config.results)
        self.begun = False
        """Whether there is anything to resume."""
        self.undecided: str | None = None
        """Why the final launches ended while an answer was open."""
        self.launches = Launches(experiment=self.experiment, may_go_on=self._time_for, on_result=self.display.recorded)

    # -- what differs between what is trained

    @abstractmethod
    def _make_runner(self) -> Recorder:
        """What launches the trials of this sweep."""

    @abstractmethod
    def _prepare(self) -> None:
        """Launch what every trial is compared with, and what else must be known before the search begins."""

    @abstractmethod
    def _about(self) -> dict[str, Any]:
        """What is written of the sweep beside what every sweep has."""

    @abstractmethod
    def _resume(self, info: Mapping[str, Any]) -> None:
        """Told what `_about` said in an earlier run, before anything is written. Raises InputError."""

    @abstractmethod
    def _finish(self) -> None:
        """Nothing more will be launched in this run."""

    @property
    def _training_s(self) -> float:
        return self.launches.training_s

    @cached_property
    def _page(self) -> Refresh:
        return Refresh(self._show)

    def _show(self) -> None:
        """The page of what is recorded so far; a sweep goes on without it."""
        self._write_info(None)
        try:
            report.build(self.store, self.hardware_id, self.name, self.experiment.config.reports)
        except StoreError as error:
            self.display.message(f"the page was not refreshed: {error}")

    def _event(self, event: Event) -> None:
        self.display.event(event)
        if event.evaluation is not None and not event.repeated:
            self._page.maybe()

    def run(self) -> Ended:
        """Search, then launch the best plans again, until the budget is spent or the user interrupts.

        Raises:
            KeyboardInterrupt: at a moment at which there is nothing to sum up.
            InputError: no plan can use the world size; the name belongs to another workload; another process runs it.
            StoreError: a recorded file of this sweep is corrupt, or the results cannot be written.
            MeasurementError: there is nothing to compare plans with.
        """
        report.check(self.experiment.config.also)
        spaces = Spaces(self.experiment.spaces(), compared=self.launches.compared)
        spaces.showcases()  # refuses, and so does the next line, before anything is written
        self._resume(self.store.sweep_info(self.hardware_id, self.name))
        self._recorded()
        # Held open, or a driver without persistence mode would start anew for each trial.
        with nvml.session(), self._lock():
            self.begun = True
            study = open_study(self._journal, self.name, [d for _, d in self._objectives])
            for workload in self.experiment.workloads.values():
                workload.prepare()
            self.display.started(self.experiment, self.name)
            if elsewhere := self._begun_elsewhere():
                self.display.message(elsewhere)
            self.launches.runner = self._make_runner()
            self._write_info(None)
            if self.experiment.config.sampler == samplers.GUIDED:
                spaces.prepare()  # while the launcher still loads what ranks need
            try:
                self._prepare()
            except KeyboardInterrupt:
                summary = loop.run(study, spaces, _never, _never, Budget(trials=0), recorded=self._recorded())
                return self._end(_interrupted(summary))
            recorded, first = self._recorded(), self._first_points(study, spaces)
            summary = loop.run(
                study,
                spaces,
                self.launches.evaluate,
                self.launches.refuse,
                Budget(trials=self.experiment.config.trials, seconds=self._seconds_to_search()),
                sampler=self.experiment.config.sampler,
                seed=self.experiment.config.seed,
                recorded=recorded,
                on_event=self._event,
                guide=self.launches.forecaster,
                first=first,
            )
            summary = summary if summary.interrupted else self._finals(summary)
        return self._end(summary)

    def _finals(self, summary: Summary) -> Summary:
        rounds = [0]

        def say(launch: FinalLaunch) -> None:
            self._page.maybe()
            if launch.round > rounds[-1]:
                rounds.append(launch.round)
                extra = launch.round > launch.rounds
                until = f", until {100 * self.experiment.config.resolution_share:g} % would show"
                of = f"{until} between those that may win" if extra else f" of {launch.rounds}"
                self.display.message(f"fresh launches of the best plans, round {launch.round}{of}")

        try:
            self.undecided = self.launches.run_finals(self.store.rows(self.name, self.hardware_id), say)
        except KeyboardInterrupt:
            return _interrupted(summary)
        if self.undecided:
            self.display.message(f"no more fresh launches: {self.undecided}")
        return summary

    # -- before

    def _first_points(self, study: optuna.Study, spaces: Spaces) -> list[Point]:
        """What the search begins with, the same when it is resumed."""
        config = self.experiment.config
        if config.sampler != samplers.GUIDED:
            found = spaces.showcases()
        elif (kept := study.user_attrs.get(_FIRST)) is not None:
            schema = study.user_attrs.get(_FIRST_SCHEMA, ONE_UNIT - 1)
            found = [Point(size, Plan.from_json(text, schema)) for size, text in kept]
        else:
            signs = [1.0 if direction == "minimize" else -1.0 for _, direction in self._objectives]
            found = first_points(spaces, self.launches.forecaster, signs)
            study.set_user_attr(_FIRST_SCHEMA, SCHEMA_VERSION)
            study.set_user_attr(_FIRST, [[point.global_batch_size, point.plan.to_json()] for point in found])
        self.launches.showcases = frozenset((point.global_batch_size, point.plan) for point in found)
        return found

    def _begun_elsewhere(self) -> str | None:
        """What to say if a sweep of this name is there, but of other hardware, so that this one begins anew."""
        places = [hardware for hardware, name in self.store.sweeps() if name == self.name]
        if not places or self.hardware_id in places:
            return None
        other, ours = places[-1], self.experiment.hardware.to_info()
        theirs = self.store.sweep_info(other, self.name).get("hardware", {})
        pairs = {name: (theirs.get(name, "-"), ours.get(name, "-")) for name in IDENTIFYING}
        differing = [f"{name} {there} there, {here} here" for name, (there, here) in pairs.items() if there != here]
        why = f" ({'; '.join(differing)})" if differing else ""
        return f"a sweep {self.name!r} was begun on other hardware, {other}{why}; here it begins anew"

    @property
    def _journal(self) -> Path:
        return self.store.root / "studies" / self.hardware_id / f"{self.name}.log"

    @property
    def _objectives(self) -> tuple[tuple[str, Direction], ...]:
        return OBJECTIVES[self.experiment.config.objective]

    def _recorded(self) -> list[Recorded]:
        """The sweep's trials in the store, checked to be of these workloads."""
        trials = self.store.trials(self.name, self.hardware_id)
        if self.store.problems:
            raise StoreError(self.store.problems[0])
        workloads = set(self.experiment.workload_ids)
        others = set(trials["workload_id"]) - workloads
        known = set(self.store.sweep_info(self.hardware_id, self.name).get("workload_ids", [])) - workloads
        if other := next(iter(others | known), None):
            raise InputError(
                f"the sweep {self.name!r} belongs to the workload {other}, but {', '.join(sorted(workloads))} "
                "was asked for; choose another --name, or the options it was begun with"
            )
        return [self.launches.recall(row) for row in plain_rows(trials) if row["study_trial"] is not None]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._journal.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(path, timeout=0):
                yield
        except filelock.Timeout:
            raise InputError(
                f"another process is running the sweep {self.name!r}; wait for it, or choose another --name"
            ) from None
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be written: {error.strerror or error}") from error

    def _time_for(self, seconds: float) -> bool:
        left = self._seconds_left()
        return left is None or left > seconds

    def _seconds_left(self) -> float | None:
        seconds = self.experiment.seconds
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - self.began))

    def _seconds_to_search(self) -> float | None:
        """The time left, less what the final launches will take."""
        left, config = self._seconds_left(), self.experiment.config
        if left is None:
            return None
        rounds = config.least_rounds + MORE_ROUNDS if config.least_rounds else 0
        launches = config.finalists * rounds * self.experiment.searched
        return left - min(launches * (config.measurement.seconds + self._launch_s()), left * MOST_FOR_FINALS)

    def _launch_s(self) -> float:
        """What a launch takes beside its window, in s: as this sweep's have, or else as is usual."""
        rows = plain_rows(self.store.trials(self.name, self.hardware_id))
        beside = [standings.wall(row) - float(row["measure_s"]) for row in rows if row["measure_s"] is not None]
        if beside:
            return statistics.median(beside)
        return DEVICE_LAUNCH_S if self.experiment.hardware.devices else LAUNCH_S

    # -- after

    def _end(self, summary: Summary) -> Ended:
        self._write_info(summary)
        self._finish()
        self.store.merge(self.hardware_id, self.name)
        page, config = None, self.experiment.config
        if not self.store.trials(self.name, self.hardware_id).empty:
            page = report.build(self.store, self.hardware_id, self.name, config.reports)
            report.also(config.also, self.store, self.hardware_id, self.name, config.reports)
        wall = time.monotonic() - self.began
        return Ended(self.name, self.hardware_id, summary, page, wall, self._training_s)

    def _write_info(self, summary: Summary | None) -> None:
        config = self.experiment.config
        info = {
            "command": command_lines.resuming(config, self.name, passed=self.experiment.passed),
            "repeat": self.launches.repeats,
            "objective": config.objective,
            "memory_limit_bytes": config.memory_limit_bytes,
            "memory_ceiling_bytes": self.experiment.memory_ceiling_bytes,
            "sampler": config.sampler,
            "seed": config.seed,
            "workload_ids": list(self.experiment.workload_ids),
            "hardware": self.experiment.hardware.to_info(),
            "environment": about.environment(),
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "wall_s": time.monotonic() - self.began,
            "training_s": self._training_s,
            "stopped": summary.stopped if summary else None,
            "undecided": self.undecided,
            **self._about(),
        }
        self.store.write_sweep_info(self.hardware_id, self.name, info)


def _never(*arguments: Any) -> Evaluation:
    raise AssertionError("a budget of no trials launches none")


def _interrupted(summary: Summary) -> Summary:
    return replace(summary, interrupted=True, stopped="it was interrupted")
