"""Runs plans of one workload, under strategies of this package, as trials."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from harness.errors import MeasurementError, TooLargeError
from harness.launchers.job import Job, Measurement
from harness.launchers.launcher import Launcher
from harness.plan import Plan
from harness.rank.stopping import Stop
from harness.store.records import Outcome
from harness.trial import curves, numerics, outcome, summary
from harness.trial.folder import temporary_folder
from harness.trial.numerics import Curve
from harness.trial.peaks import Peaks
from harness.trial.recorder import BY_HAND, Launched, Recorder, Result
from harness.trial.supervise import TICK, Trace, follow
from harness.workloads.workload import Workload
from strategies.facts import Facts

ATTEMPTS = 3
"""How often a reference is begun that the system takes away each time."""


OUT_OF_MEMORY = (Outcome.OOM_DEVICE, Outcome.OOM_HOST)


@dataclass(frozen=True)
class Ran:
    """What some steps came to that were trained for their losses."""

    ending: outcome.Ending
    curve: Curve
    step_times_s: list[float]
    """Of the first rank."""
    training_s: float
    """Wall time in training steps, in s."""


@dataclass(kw_only=True)
class Runner(Recorder):
    """Launches ranks for plans, for what they are compared with, and for what is measured beside."""

    launcher: Launcher
    cores: int
    """CPU cores to share among the ranks of a trial."""
    memory_limit: int | None = None
    """Bytes one rank may hold."""
    references: dict[str, Curve] = field(default_factory=dict)
    """Workload id -> what its trials are compared with."""
    peaks: Peaks = field(default_factory=Peaks)
    """What MFU is a share of."""
    memory_floor: int | None = None
    """Bytes of the machine's memory that ranks must leave; None: a share of it."""
    steps_to_loss: dict[str, int] = field(default_factory=dict)
    """Workload id -> steps its reference needs to the target loss, where one was asked for."""

    def run(self, plan: Plan, workload: Workload, facts: Facts, launched: Launched = BY_HAND) -> Result:
        settings = replace(self.measurement, rival_step_time_s=launched.rival_step_time_s)
        with self._job(plan, workload, facts, settings) as job:
            return self.trial(
                plan,
                workload,
                launched,
                follow=lambda: self._follow(job),
                columns=lambda trace: self._row(trace, plan, workload, facts),
            )

    def plan_columns(self, plan: Plan, workload: Workload) -> dict[str, Any]:
        return summary.plan_columns(plan, workload)

    def _row(self, trace: Trace, plan: Plan, workload: Workload, facts: Facts) -> dict[str, Any]:
        ending = outcome.ending_of(trace)
        row = {
            "outcome": ending.outcome,
            "outcome_reason": ending.reason,
            "failed_phase": ending.phase,
            "failed_rank": ending.rank,
            "failed_step": ending.step,
            **summary.measured(trace),
        }
        if ending.outcome is Outcome.OK:
            row |= self._stopped_early(trace, row)
        row |= self._numerics(trace, plan, workload, row["outcome"])
        row |= self._over_limit(row, facts)
        row["time_to_loss_s"] = self._time_to_loss(row, workload)
        flops = {"flops_per_step": workload.flops_per_step()}
        row |= self.peaks.columns(plan, plan.world_size, row | flops)
        if self.memory_limit is not None:  # it limits the allocator, and nothing beside it counts
            row["memory_outside_bytes"] = None
        if row.get("energy_j") and row.get("step_time_s"):
            row["tokens_per_j"] = summary.window_tokens(trace) / row["energy_j"]
        return row

    def _stopped_early(self, trace: Trace, row: dict[str, Any]) -> dict[str, Any]:
        rival = trace.job.measurement.rival_step_time_s
        if row.get("stop") != Stop.SLOWER or rival is None:
            return {}
        ours = row["step_time_s"]
        reason = f"its steps take {ours:.4g} s, surely more than the {rival:.4g} s of the best plan so far"
        return {"outcome": Outcome.STOPPED_EARLY, "outcome_reason": reason}

    def reference(self, plan: Plan, workload: Workload, facts: Facts, steps: int) -> float:
        """Make sure the workload's fp32 curve is known: from the store, or by running it in one process.

        Args:
            plan: one rank, everything at its default.
            workload: what to train.
            facts: those of a world of one rank.
            steps: length of the curve.

        Returns:
            Seconds spent in training steps.

        Raises:
            KeyboardInterrupt: it was interrupted.
            TooLargeError: one process does not have the memory.
            MeasurementError: the reference does not run.
        """
        if (known := curves.recorded(self.store, workload, steps)) is not None:
            self.references[workload.workload_id] = known
            return 0.0
        ran = self.trained(plan, workload, facts, steps)
        if ran.ending.outcome is not Outcome.OK:
            error = TooLargeError if ran.ending.outcome in OUT_OF_MEMORY else MeasurementError
            raise error(
                f"the fp32 reference of {workload.name} on one process ended with {ran.ending.outcome}: "
                f"{ran.ending.reason}"
            )
        self.references[workload.workload_id] = ran.curve
        curves.keep(self.store, workload, ran.curve, ran.step_times_s, facts.device_type)
        return ran.training_s

    def profile(self, plan: Plan, workload: Workload, facts: Facts) -> tuple[dict[str, Any], float]:
        """Time of communication and the allocator's own peak of a plan, from a launch for nothing else.

        A launch of its own, because a profiler may end the process it watches, and that must not count against a plan.

        Returns:
            Columns of a row, {} if the launch did not succeed; seconds spent in training steps.

        Raises:
            KeyboardInterrupt: it was interrupted.
        """
        with self._job(plan, workload, facts, Measurement(min_steps=1, max_steps=1), profile=True) as job:
            trace = self._follow(job)
        ending = outcome.ending_of(trace)
        if ending.outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        columns = summary.profiled(trace) if ending.outcome is Outcome.OK else {}
        return columns, summary.training_seconds(trace)

    def apart(
        self, plan: Plan, workload: Workload, facts: Facts, target: Callable[[Job, int], None], file: str
    ) -> dict[str, Any] | None:
        """Run something else than a trial on the ranks of a plan.

        Args:
            plan: how many ranks.
            workload: in the job.
            facts: in the job.
            target: what each rank runs.
            file: JSON that it writes into the job's folder.

        Returns:
            What it wrote; None if it wrote nothing before its deadline.
        """
        with self._job(plan, workload, facts, self.measurement) as job:
            ranks = self.launcher.start(job, target)
            try:
                end = time.monotonic() + self.deadlines.start
                while ranks.running and time.monotonic() < end:
                    ranks.wait(TICK)
            finally:
                ranks.kill()
            written = job.folder / file
            found: dict[str, Any] | None = json.loads(written.read_text("utf-8")) if written.exists() else None
        return found

    def trained(self, plan: Plan, workload: Workload, facts: Facts, steps: int) -> Ran:
        """Train so many steps for their losses alone, without a row in the store. Raises KeyboardInterrupt."""
        measurement = Measurement(warmup_steps=2, min_steps=steps - 2, max_steps=steps - 2)
        for _ in range(ATTEMPTS):
            with self._job(plan, workload, facts, measurement) as job:
                trace = self._follow(job)
            ending = outcome.ending_of(trace)
            if ending.outcome is Outcome.INTERRUPTED:
                raise KeyboardInterrupt
            if ending.outcome is not Outcome.PREEMPTED:
                break
        times = [event["step_time_s"] for event in trace.readers[0].all("step")]
        return Ran(ending, summary.curve(trace), times, summary.training_seconds(trace))

    def _follow(self, job: Job) -> Trace:
        try:
            return follow(self.launcher, job, self.deadlines, on_step=self.on_step, memory_floor=self.memory_floor)
        except OSError as error:  # of this process: no file descriptors are left, or the folder was removed
            raise MeasurementError(f"a trial cannot be followed: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _job(
        self, plan: Plan, workload: Workload, facts: Facts, measurement: Measurement, *, profile: bool = False
    ) -> Iterator[Job]:
        with temporary_folder() as folder:
            yield Job(
                workload=workload,
                plan=plan,
                facts=facts,
                folder=folder,
                threads=max(1, self.cores // plan.world_size),
                memory_limit=self.memory_limit,
                measurement=measurement,
                profile=profile,
            )

    def _numerics(self, trace: Trace, plan: Plan, workload: Workload, ended: Outcome) -> dict[str, Any]:
        reference = self.references.get(workload.workload_id)
        measured = summary.curve(trace)
        compared = trace.job.measurement.warmup_steps
        if reference is None or len(measured.loss) < compared:
            return {"numerics": "skipped"}
        verdict = numerics.compare(measured, reference, plan, compared)
        columns: dict[str, Any] = {
            "numerics": "pass" if verdict.passed else "fail",
            "numerics_max_rel_error": verdict.max_rel_error,
            "numerics_tolerance": verdict.tolerance,
            "reference": reference.reference,
        }
        if not verdict.passed and ended in (Outcome.OK, Outcome.STOPPED_EARLY):
            columns |= {"outcome": Outcome.NUMERICS, "outcome_reason": verdict.reason}
        return columns

    def _over_limit(self, row: dict[str, Any], facts: Facts) -> dict[str, Any]:
        """A trial that held more than it may, in a moment between two looks of the parent, did not fit either."""
        peak = row.get("peak_memory_bytes")
        usable = row["outcome"] in (Outcome.OK, Outcome.STOPPED_EARLY)
        if not usable or self.memory_limit is None or not peak or peak <= self.memory_limit:
            return {}
        outcome = Outcome.OOM_HOST if facts.device_type == "cpu" else Outcome.OOM_DEVICE
        return {
            "outcome": outcome,
            "outcome_reason": f"the worst rank held {peak} B where the memory limit is {self.memory_limit} B",
        }

    def _time_to_loss(self, row: dict[str, Any], workload: Workload) -> float | None:
        """Every plan that passes the numerics follows the reference, so the steps to a loss are the workload's."""
        steps = self.steps_to_loss.get(workload.workload_id)
        return steps * row["step_time_s"] if steps and row.get("step_time_s") else None
