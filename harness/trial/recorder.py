"""Follows one launch after another and records each: the one place where a trial begins and ends, whatever it runs."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from harness.errors import MeasurementError
from harness.launchers.job import Deadlines, Measurement
from harness.machine import load
from harness.machine.hardware import Device
from harness.plan import Plan
from harness.store import records
from harness.store.records import Outcome, Role
from harness.store.standings import USABLE, step_tokens
from harness.store.store import Store
from harness.trial import evidence, summary
from harness.trial.supervise import Trace
from harness.version import __version__


@dataclass(frozen=True)
class Result:
    """A recorded trial."""

    trial_id: str
    row: dict[str, Any]
    training_s: float = 0.0
    """Wall time in training steps, in s."""

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self.row["outcome"])


@dataclass(frozen=True, kw_only=True)
class Launched:
    """Why a trial is launched, and what is recorded of it beside what is measured."""

    role: Role = Role.RUN
    study_trial: int | None = None
    """Number of the trial in the study."""
    round: int | None = None
    """Of a final launch."""
    repeatable: bool = False
    """Whether a disturbed launch will be repeated; then it is recorded without its number."""
    rival_step_time_s: float | None = None
    """See `Measurement`."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are known from elsewhere: predictions, what a profiler saw."""


BY_HAND = Launched()
"""Somebody asked for this plan."""


@dataclass(kw_only=True)
class Recorder(ABC):
    """Everything that is the same for all trials of a sweep."""

    store: Store
    hardware_id: str
    sweep: str
    measurement: Measurement = field(default_factory=Measurement)
    deadlines: Deadlines = field(default_factory=Deadlines)
    rank_memory: int | None = None
    """What headroom is counted against, in B: the limit, or else what a rank has on this machine."""
    devices: tuple[Device, ...] = ()
    """The accelerators that ranks run on, () on a CPU."""
    on_step: Callable[[int], None] | None = None

    @abstractmethod
    def run(self, plan: Plan, workload: Any, facts: Any, launched: Launched = BY_HAND) -> Result:
        """Run a plan as fresh processes, classify what happened, record it.

        Args:
            plan: what to run; it must have passed every check.
            workload: what to train.
            facts: what the plan was checked against.
            launched: why, and what is recorded beside.

        Raises:
            KeyboardInterrupt: the trial was interrupted, and recorded so.
            MeasurementError: no process can be started here.
            StoreError: the results, or the folder for temporary files, cannot be written.
        """

    @abstractmethod
    def profile(self, plan: Plan, workload: Any, facts: Any) -> tuple[dict[str, Any], float]:
        """(columns that a launch for nothing else tells of a plan, wall time of it in training steps in s)."""

    @abstractmethod
    def plan_columns(self, plan: Plan, workload: Any) -> dict[str, Any]:
        """The columns that follow from a plan and its workload alone."""

    def trial(
        self,
        plan: Plan,
        workload: Any,
        launched: Launched,
        follow: Callable[[], Trace],
        columns: Callable[[Trace], dict[str, Any]],
    ) -> Result:
        """What is the same of every `run`.

        Args:
            plan: what to run.
            workload: what is trained.
            launched: why, and what is recorded beside.
            follow: launches it, and returns when all of it is gone.
            columns: what was measured, the outcome among it, from what `follow` returned; they win over `plan_columns`.
        """
        started_at, trial_id = datetime.now(UTC), new_trial_id()
        with load.watching(self.devices) as seen:
            trace = follow()
        row: dict[str, Any] = {"role": launched.role, "round": launched.round, "memory_limit_bytes": self.rank_memory}
        row |= columns(trace) | seen.columns(len(trace.readers), trace.window()) | dict(launched.beside)
        row["disturbed"] = load.disturbance(row, trace.device_type)
        if row["outcome"] in USABLE:
            row["evidence"] = None
        elif row.get("evidence") is None:
            row["evidence"] = evidence.of(trace)
        self._after_a_kill(trace, seen)
        counts = not launched.repeatable or row["disturbed"] is None
        number = launched.study_trial if counts else None
        whole = self._record(trial_id, started_at, plan, workload, number, row, _steps(trial_id, trace, row))
        if row["outcome"] is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        return Result(trial_id, whole, summary.training_seconds(trace))

    def refuse(
        self,
        plan: Plan,
        workload: Any,
        reason: str,
        study_trial: int | None = None,
        expected: Mapping[str, Any] | None = None,
        outcome: Outcome = Outcome.INFEASIBLE,
        role: Role = Role.SEARCH,
    ) -> Result:
        """Record a plan that is not launched, with columns that are known: it cannot run, or its twin says enough."""
        row = {
            "numerics": "skipped",
            **(expected or {}),
            "outcome": outcome,
            "outcome_reason": reason,
            "role": role,
        }
        trial_id = new_trial_id()
        return Result(trial_id, self._record(trial_id, datetime.now(UTC), plan, workload, study_trial, row))

    def _after_a_kill(self, trace: Trace, seen: load.Seen) -> None:
        """Leave the devices to the next trial as this one found them."""
        killed = trace.stopped is not None or len(trace.exits) < len(trace.readers)
        if self.devices and killed and not load.wait_until_free(self.devices, seen.before) and trace.unending:
            raise MeasurementError(
                f"ranks of a trial cannot be ended (process {', '.join(map(str, trace.unending))}) and hold memory of "
                "a device; reset it, or restart the machine, and resume"
            )

    def _record(
        self,
        trial_id: str,
        started_at: datetime,
        plan: Plan,
        workload: Any,
        study_trial: int | None,
        values: dict[str, Any],
        steps: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        row = {
            **dict.fromkeys(column.name for column in records.TRIALS),
            "trial_id": trial_id,
            "study_trial": study_trial,
            "started_at": started_at,
            "torch_version": version("torch"),
            "schema_version": records.SCHEMA_VERSION,
            "harness_version": __version__,
            "plan_id": plan.plan_id,
            "knobs": plan.to_json(),
            **self.plan_columns(plan, workload),
            **values,
        }
        self.store.append(self.hardware_id, self.sweep, row, steps or ())
        return row


def _steps(trial_id: str, trace: Trace, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps; of a script each holds as many samples or tokens as its rate says."""
    rows = summary.step_rows(trial_id, trace)
    if trace.job.tokens_per_step is None and row.get("tokens_per_s"):
        tokens = round(step_tokens(row))
        rows = [{**each, "tokens": tokens} for each in rows]
    return rows


def new_trial_id() -> str:
    """Sortable by time, unique across machines."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
