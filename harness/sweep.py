"""A sweep from beginning to end: reference, search, records, report."""

from __future__ import annotations

import contextlib
import math
import platform
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import filelock

from harness import __version__, repeat, report
from harness.config import OBJECTIVES, Direction, parse_duration
from harness.errors import InputError, MeasurementError, StoreError
from harness.experiment import Experiment
from harness.launchers.base import Launcher
from harness.plan import Plan
from harness.records import Outcome
from harness.search import loop
from harness.search.evaluation import Budget, Evaluation, Event, Recorded, Summary, Ticket
from harness.search.spaces import Spaces
from harness.search.study import open_study
from harness.store import Store
from harness.trial.job import Deadlines, Measurement
from harness.trial.runner import Result, Runner
from harness.workloads.base import Workload

REFERENCE_STEPS = 16
"""Length of the fp32 curve that trials are compared with and that the report overlays."""
LOSS_STEPS = 64
"""Length of that curve when the objective is a time to a loss."""
LOSS_WINDOW = 4
"""A loss counts as reached when the mean of this many steps is below it."""


class Display(Protocol):
    """What shows a sweep's progress."""

    def started(self, experiment: Experiment, name: str) -> None:
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
class Sweep:
    """One run of a sweep.

    Args:
        experiment: what to search, checked.
        display: told of everything that happens.
        launcher: starts the ranks; the caller closes it.
        began: monotonic time from which the time budget counts, in s.
    """

    experiment: Experiment
    display: Display
    launcher: Launcher
    began: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        config, workload = self.experiment.config, next(iter(self.experiment.workloads.values()))
        self.name = config.name or new_name(workload.name, self.started_at)
        self.hardware_id = self.experiment.hardware.hardware_id
        self.store = Store(config.results)
        self.training_s = 0.0
        self.begun = False
        """Whether there is anything to resume."""
        self.launched = False
        """Whether a trial of this run stands in the store."""
        self.repeats: dict[str, str] = {}
        self._units: dict[str, tuple[float, ...]] = {}

    def run(self) -> Ended:
        """Search until the budget is spent or the user interrupts.

        Raises:
            KeyboardInterrupt: at a moment at which there is nothing to sum up.
            InputError: no plan can use the world size; the name belongs to another workload; another process runs it.
            StoreError: a recorded file of this sweep is corrupt, or the results cannot be written.
            MeasurementError: the reference does not run.
        """
        spaces = Spaces(self.experiment.spaces(), compared=self._compared)
        self._recorded()  # refuses before anything is written
        with self._lock():
            recorded = self._recorded()
            self.begun = True
            study = open_study(self._journal, self.name, [d for _, d in self._objectives])
            for workload in self.experiment.workloads.values():
                workload.prepare()
            self.display.started(self.experiment, self.name)
            runner = self._runner()
            self._write_info(None)
            try:
                self._references(runner)
            except KeyboardInterrupt:
                summary = loop.run(study, spaces, _never, _never, Budget(trials=0), recorded=recorded)
                return self._end(_interrupted(summary))
            summary = loop.run(
                study,
                spaces,
                lambda plan, ticket: self._evaluate(runner, plan, ticket),
                lambda plan, ticket, reason: self._refuse(runner, plan, ticket, reason),
                Budget(trials=self.experiment.config.trials, seconds=self._seconds_left()),
                sampler=self.experiment.config.sampler,
                seed=self.experiment.config.seed,
                recorded=recorded,
                on_event=self.display.event,
            )
        return self._end(summary)

    # -- before

    @property
    def _journal(self) -> Path:
        return self.store.root / "studies" / self.hardware_id / f"{self.name}.log"

    @property
    def _objectives(self) -> tuple[tuple[str, Direction], ...]:
        return OBJECTIVES[self.experiment.config.objective]

    @property
    def _compared(self) -> bool:
        """Whether the objective means the same for every workload of the sweep."""
        return len(self.experiment.workloads) == 1 or self.experiment.config.objective == "time-to-loss"

    def _recorded(self) -> list[Recorded]:
        """The sweep's trials in the store, checked to be of these workloads."""
        trials = self.store.trials(self.name, self.hardware_id)
        if self.store.problems:
            raise StoreError(self.store.problems[0])
        workloads = {w.workload_id for w in self.experiment.workloads.values()}
        others = set(trials["workload_id"]) - workloads
        known = set(self.store.sweep_info(self.hardware_id, self.name).get("workload_ids", [])) - workloads
        if other := next(iter(others | known), None):
            raise InputError(
                f"the sweep {self.name!r} belongs to the workload {other}, but {', '.join(sorted(workloads))} "
                "was asked for; choose another --name, or the options it was begun with"
            )
        rows = trials[trials["study_trial"].notna()].to_dict("records")
        return [self._recall(row) for row in rows]

    def _recall(self, row: dict[str, Any]) -> Recorded:
        plan = Plan.from_json(row["knobs"])
        if math.isfinite(row["step_time_s"] or math.nan):
            self.repeats[row["trial_id"]] = self._repeat(plan, int(row["global_batch_size"]))
        return Recorded(plan, Ticket(int(row["study_trial"]), int(row["global_batch_size"])), self._evaluation(row))

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

    def _runner(self) -> Runner:
        config = self.experiment.config
        return Runner(
            launcher=self.launcher,
            store=self.store,
            hardware_id=self.hardware_id,
            sweep=self.name,
            cores=self.experiment.hardware.usable_cores,
            measurement=Measurement(seconds=parse_duration(config.measure)),
            deadlines=Deadlines(start=parse_duration(config.start_deadline), step=parse_duration(config.step_deadline)),
            memory_limit=config.memory_limit_bytes,
            on_step=self.display.step,
        )

    def _references(self, runner: Runner) -> None:
        wanted = LOSS_STEPS if self.experiment.config.objective == "time-to-loss" else REFERENCE_STEPS
        for workload in self.experiment.workloads.values():
            self.display.message(f"{workload.name}: fp32 reference on one process, {wanted} steps")
            plan, facts = self.experiment.reference_plan(workload), self.experiment.facts(workload, 1)
            self.training_s += runner.reference(plan, workload, facts, wanted)
        if self.experiment.config.objective == "time-to-loss":
            runner.steps_to_loss = self._steps_to_loss(runner)

    def _steps_to_loss(self, runner: Runner) -> dict[str, int]:
        smooth = {
            workload_id: [sum(c.loss[i : i + LOSS_WINDOW]) / LOSS_WINDOW for i in range(len(c.loss) - LOSS_WINDOW + 1)]
            for workload_id, c in runner.references.items()
        }
        target = self.experiment.config.target_loss or max(min(losses) for losses in smooth.values())
        steps = {w: next((i for i, loss in enumerate(ls) if loss <= target), None) for w, ls in smooth.items()}
        if missing := [workload_id for workload_id, count in steps.items() if count is None]:
            raise MeasurementError(
                f"the loss {target:g} is not reached within {LOSS_STEPS} steps of {', '.join(missing)}; "
                "choose a higher --target-loss"
            )
        self.display.message(f"time to a loss of {target:.4g}")
        return {w: count + LOSS_WINDOW for w, count in steps.items() if count is not None}

    def _seconds_left(self) -> float | None:
        seconds = self.experiment.config.seconds
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - self.began))

    # -- trials

    def _evaluate(self, runner: Runner, plan: Plan, ticket: Ticket) -> Evaluation:
        workload = self.experiment.workloads[ticket.global_batch_size]
        result = runner.run(plan, workload, self.experiment.facts(workload), ticket.number)
        self.training_s += result.training_s
        self.launched = True
        self.repeats[result.trial_id] = self._repeat(plan, ticket.global_batch_size)
        self.display.recorded(result)
        return self._evaluation(result.row)

    def _refuse(self, runner: Runner, plan: Plan, ticket: Ticket, reason: str) -> Evaluation:
        workload = self.experiment.workloads[ticket.global_batch_size]
        result = runner.refuse(plan, workload, reason, ticket.number)
        self.display.recorded(result)
        return self._evaluation(result.row)

    def _evaluation(self, row: dict[str, Any]) -> Evaluation:
        outcome = Outcome(row["outcome"])
        values = tuple(row.get(column) for column, _ in self._objectives)
        present = tuple(float(v) for v in values if v is not None and v == v)
        usable = outcome is Outcome.OK and len(present) == len(values)
        if usable and not self._compared:
            # Workloads are unequal work: each counts in units of its own first trial.
            units = self._units.setdefault(row["workload_id"], present)
            present = tuple(value / unit for value, unit in zip(present, units, strict=True))
        return Evaluation(
            trial_id=row["trial_id"],
            outcome=outcome,
            values=present if usable else None,
            reason=row.get("outcome_reason"),
        )

    def _repeat(self, plan: Plan, global_batch: int) -> str:
        workload = self.experiment.workloads[global_batch]
        return repeat.run_command(
            self.experiment.config,
            plan,
            {knob.name: knob.default for knob in self.experiment.knobs},
            self.experiment.config.workload or workload.name,
            global_batch if self.experiment.config.global_batch else None,
        )

    # -- after

    def _end(self, summary: Summary) -> Ended:
        self._write_info(summary)
        self.store.merge(self.hardware_id, self.name)
        page = None
        if not self.store.trials(self.name, self.hardware_id).empty:
            page = report.build(self.store, self.hardware_id, self.name, self.experiment.config.reports)
        wall = time.monotonic() - self.began
        return Ended(self.name, self.hardware_id, summary, page, wall, self.training_s)

    def _write_info(self, summary: Summary | None) -> None:
        config, workload = self.experiment.config, next(iter(self.experiment.workloads.values()))
        info = {
            "command": repeat.resume_command(config, self.name),
            "repeat": self.repeats,
            "objective": config.objective,
            "memory_limit_bytes": config.memory_limit_bytes,
            "sampler": config.sampler,
            "seed": config.seed,
            "strategies": [strategy.name for strategy in self.experiment.strategies],
            "workload": _describe(workload),
            "workload_ids": [w.workload_id for w in self.experiment.workloads.values()],
            "hardware": self.experiment.hardware.to_info(),
            "environment": environment(),
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "wall_s": time.monotonic() - self.began,
            "training_s": self.training_s,
            "stopped": summary.stopped if summary else None,
        }
        self.store.write_sweep_info(self.hardware_id, self.name, info)


def environment() -> dict[str, str]:
    """Versions that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "harness": __version__}
    for package in ("torch", "optuna", "torchao", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _describe(workload: Workload) -> dict[str, Any]:
    data = getattr(workload, "data", None)
    return {
        "name": workload.name,
        "workload_id": workload.workload_id,
        "parameters": workload.facts().parameters,
        "seq_len": workload.seq_len,
        "global_batch_size": workload.global_batch_size,
        "data": getattr(data, "description", "bundled with the workload"),
    }


def _never(*arguments: Any) -> Evaluation:
    raise AssertionError("a budget of no trials launches none")


def _interrupted(summary: Summary) -> Summary:
    return replace(summary, interrupted=True, stopped="it was interrupted")


def new_name(workload: str, moment: datetime) -> str:
    """A name for a sweep that was given none: no path, whatever the workload is called, and no other sweep's."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", workload).strip("-.")[:50]
    return f"{plain or 'sweep'}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
