"""What a sweep launches: trials that the search asks for, and final launches that decide between the best plans."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import MeasurementError
from harness.plan import Plan
from harness.search.evaluation import Evaluation, Recorded, Ticket
from harness.search.spaces import Point
from harness.store import standings
from harness.store.records import Outcome, Role
from harness.store.standings import Row
from harness.sweeps import finals
from harness.sweeps.config import OBJECTIVES
from harness.sweeps.forecast import Forecaster
from harness.sweeps.references import References, Twin
from harness.sweeps.subject import Subject
from harness.trial.recorder import Launched, Recorder, Result

MOST_FUTILE = 3
"""Repetitions in a row that may be disturbed as well; then the machine is a busy one, and launches are only flagged."""
MOST_DEVICE_FAILURES = 3
"""Launches in a row that the devices may end."""
DEVICE_FAILED = re.compile(
    r"(CUDA|HIP|XPU|device) (runtime )?error|uncorrectable ECC|device.*\blost\b|Xid", re.IGNORECASE
)
"""What such a launch says."""
RACED = ("throughput", "time-to-loss")
"""Objectives under which a slower plan cannot win."""


@dataclass(frozen=True)
class FinalLaunch:
    """One launch of a finalist."""

    plan: Plan
    global_batch_size: int
    round: int
    """From 1."""
    rounds: int
    """Those that were asked for; later ones are added to tell the plans apart."""


@dataclass(kw_only=True)
class Launches:
    """Runs plans for a sweep and keeps what they came to.

    Args:
        experiment: what is searched.
        references: what plans are compared with beside the runner's curves; None: those are all.
        showcases: (global batch size, plan) of the plans that show each strategy: they are measured to the end.
        may_go_on: whether there is time for one more launch that takes so many s.
        on_result: told of each recorded trial.
    """

    experiment: Subject
    references: References | None = None
    showcases: frozenset[tuple[int, Plan]] = frozenset()
    forecaster: Forecaster = field(default_factory=lambda: Forecaster(device=None, workloads={}))
    """What is expected of plans; learns from every trial."""
    may_go_on: Callable[[float], bool] = lambda seconds: True
    on_result: Callable[[Result], None] = lambda result: None
    runner: Recorder = field(init=False)
    """Set once everything was checked."""
    repeats: dict[str, str] = field(default_factory=dict)
    """trial_id -> the command that repeats its plan."""
    training_s: float = 0.0
    launched: bool = False
    """Whether a trial of this run stands in the store."""
    _units: dict[str, tuple[float, ...]] = field(default_factory=dict)
    _profiles: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """(plan_id, global batch size) -> what the profiler saw of a finalist."""
    _profiling_s: float = 0.0
    """Wall time of those launches."""
    _device_failures: int = 0
    """Launches in a row that the devices ended."""
    _futile: int = 0
    """Repetitions in a row that were disturbed as well."""
    _rivals: dict[str, float] = field(default_factory=dict)

    @property
    def compared(self) -> bool:
        """Whether the objective means the same for every workload of the sweep."""
        return self.experiment.searched == 1 or self.experiment.config.objective == "time-to-loss"

    # -- the search

    def evaluate(self, plan: Plan, ticket: Ticket) -> Evaluation:
        """Launch a plan that the search asked for; once more if others disturbed it."""
        size = ticket.global_batch_size
        rival = None if (size, plan) in self.showcases else self._rival(size)
        result = self._run(plan, size, ticket.number, Role.SEARCH, rival)
        if self._worth_repeating(result):
            result = self._run(plan, size, ticket.number, Role.AGAIN, rival)
            self._note_repetition(result)
        return self.evaluation(result.row)

    def _worth_repeating(self, result: Result) -> bool:
        disturbed = result.row.get("disturbed") is not None
        return disturbed and self._may_repeat

    @property
    def _may_repeat(self) -> bool:
        return self._futile < MOST_FUTILE

    def _note_repetition(self, result: Result) -> None:
        self._futile = self._futile + 1 if result.row.get("disturbed") is not None else 0

    def refuse(self, plan: Plan, ticket: Ticket, reason: str) -> Evaluation:
        """Record a plan that cannot run."""
        workload = self.experiment.workloads[ticket.global_batch_size]
        expected = self.forecaster.columns(Point(ticket.global_batch_size, plan))
        result = self.runner.refuse(plan, workload, reason, ticket.number, expected)
        self.on_result(result)
        return self.evaluation(result.row)

    def recall(self, row: Row) -> Recorded:
        """A trial of an earlier run of the sweep."""
        plan = self.experiment.as_drawn(Plan.from_json(row["knobs"]))
        self._remember(row, plan)
        if self.references is not None:
            self.references.remember(row, plan)
        return Recorded(plan, Ticket(int(row["study_trial"]), self.experiment.searched_as(row)), self.evaluation(row))

    def evaluation(self, row: Row) -> Evaluation:
        """What a trial means to the search."""
        outcome, reason = Outcome(row["outcome"]), row.get("outcome_reason")
        values = tuple(row.get(column) for column, _ in OBJECTIVES[self.experiment.config.objective])
        present = tuple(float(v) for v in values if v is not None and math.isfinite(v))
        usable = outcome in standings.USABLE and len(present) == len(values)
        if usable and standings.over(row, self.experiment.memory_ceiling_bytes):
            usable, reason = False, "it leaves less than the headroom asked for"
        if usable and not self.compared:
            # Workloads are unequal work: each counts in units of its own first trial.
            units = self._units.setdefault(row["workload_id"], present)
            present = tuple(value / unit for value, unit in zip(present, units, strict=True))
        return Evaluation(trial_id=row["trial_id"], outcome=outcome, values=present if usable else None, reason=reason)

    def _run(
        self,
        plan: Plan,
        size: int,
        number: int | None,
        role: Role,
        rival_step_time_s: float | None = None,
        round: int | None = None,
    ) -> Result:
        workload = self.experiment.workloads[size]
        known: dict[str, Any] = {}
        twin: Twin | None = None
        if self.references is not None:
            twin = self.references.twin(plan, workload)
            known = self.references.columns(workload, twin)
        expected = {**self.forecaster.columns(Point(size, plan)), **known}
        if twin is not None and not twin.passed:
            return self._failed_on_its_twin(plan, workload, twin, number, expected)
        launched = Launched(
            role=role,
            study_trial=number,
            round=round,
            repeatable=role is Role.SEARCH and self._may_repeat,
            rival_step_time_s=rival_step_time_s,
            beside={**expected, **(self._profile(plan, size) if role is Role.FINAL else {})},
        )
        result = self.runner.run(plan, workload, self.experiment.facts(workload), launched)
        self.note(result, plan)
        return result

    def note(self, result: Result, plan: Plan) -> None:
        """A launch of a plan was recorded. Raises MeasurementError if the devices end one after another."""
        self.training_s += result.training_s
        self.launched = True
        self._check_devices_live(result)
        self._remember(result.row, plan)
        self.on_result(result)

    def _failed_on_its_twin(
        self, plan: Plan, workload: Any, twin: Twin, number: int | None, expected: Mapping[str, Any]
    ) -> Result:
        """Record a plan that need not be launched: what is wrong with its twin is wrong with it."""
        result = self.runner.refuse(plan, workload, str(twin.reason), number, expected, twin.outcome)
        self.note(result, plan)
        return result

    def _check_devices_live(self, result: Result) -> None:
        """Raises MeasurementError where one launch after another is ended by the devices themselves."""
        text = str(result.row.get("outcome_reason"))
        failed = result.outcome is Outcome.CRASH and DEVICE_FAILED.search(text) is not None
        self._device_failures = self._device_failures + 1 if failed else 0
        if self._device_failures >= MOST_DEVICE_FAILURES:
            raise MeasurementError(
                f"{MOST_DEVICE_FAILURES} launches in a row were ended by the device, the last with: {text}; "
                "look at the driver's log (dmesg | grep -i xid), reset the device, and resume"
            )

    def _profile(self, plan: Plan, size: int) -> Mapping[str, Any]:
        """What the profiler sees of a finalist, once in a sweep."""
        known = (plan.plan_id, size)
        if known not in self._profiles:
            workload = self.experiment.workloads[size]
            begin = time.monotonic()
            self._profiles[known], trained = self.runner.profile(plan, workload, self.experiment.facts(workload))
            self.training_s += trained
            self._profiling_s += time.monotonic() - begin
        return self._profiles[known]

    def _remember(self, row: Row, plan: Plan) -> None:
        size = self.experiment.searched_as(row)
        self.forecaster.learn(Point(size, plan), row)
        chosen = {} if self.references is None else self.references.chosen
        command = self.experiment.repeat(plan, size, chosen)
        if command is not None:
            self.repeats[row["trial_id"]] = command
        fits = not standings.over({"peak_memory_bytes": None, **row}, self.experiment.memory_ceiling_bytes)
        if row["outcome"] == Outcome.OK and row.get("disturbed") is None and fits and row.get("tokens_per_s_low"):
            slowest = standings.step_tokens(row) / row["tokens_per_s_low"]
            workload = row["workload_id"]
            self._rivals[workload] = min(slowest, self._rivals.get(workload, math.inf))

    def _rival(self, size: int) -> float | None:
        config = self.experiment.config
        if not config.racing or config.objective not in RACED or not self.experiment.raced:
            return None
        return self._rivals.get(self.experiment.workloads[size].workload_id)

    # -- the finals

    def run_finals(self, rows: Sequence[Row], on_launch: Callable[[FinalLaunch], None]) -> str | None:
        """Launch the best plans again, in rounds, until enough is known of which is best, as long as there is time.

        Args:
            rows: every trial of the sweep.
            on_launch: told of each launch.

        Returns:
            Why it ended while an answer was open, in one sentence; None if none was.
        """
        rows, rules = list(rows), self._rules
        chosen = {size: finals.finalists(self._of(rows, size), rules) for size in self.experiment.workloads}
        number = 0
        while True:
            number += 1
            known = finals.until(rows, number)
            decisions = [finals.decide(chosen[size], self._of(known, size), number - 1, rules) for size in chosen]
            plans = [row for decision in decisions for row in decision.plans]
            missing = [row for row in finals.in_turn(plans, number) if not finals.launched(row, rows, number)]
            if not plans:
                return next((decision.why for decision in decisions if decision.why), None)
            is_open = rules.objective != "memory" and any(len(decision.plans) > 1 for decision in decisions)
            if missing and (why := self._longer_than_the_search(rows, missing, number)) is not None:
                return why if is_open else None
            for done, row in enumerate(missing):
                if not self.may_go_on(standings.wall(row)):
                    return f"no time for {len(missing) - done} launches of round {number}" if is_open else None
                size = next(
                    size for size, w in self.experiment.workloads.items() if w.workload_id == row["workload_id"]
                )
                launch = FinalLaunch(Plan.from_json(row["knobs"]), size, number, rules.least)
                on_launch(launch)
                rows += self._run_final(launch)

    @property
    def _rules(self) -> finals.Rules:
        config = self.experiment.config
        return finals.Rules(
            objective=config.objective,
            finalists=config.finalists,
            least=config.least_rounds,
            resolution=config.resolution_share,
            ceiling=self.experiment.memory_ceiling_bytes,
        )

    def _longer_than_the_search(self, rows: Sequence[Row], missing: Sequence[Row], number: int) -> str | None:
        """Why a round is too much that nobody asked for; None if it is not, or somebody did."""
        config = self.experiment.config
        asked = config.resolution is not None or (config.relaunches is not None and number <= config.least_rounds)
        spent = finals.seconds(rows, final=True) + self._profiling_s
        if asked or spent + sum(map(standings.wall, missing)) <= finals.seconds(rows, final=False):
            return None
        return f"round {number} would take them longer than the search; --relaunches or --resolution asks for it"

    def _run_final(self, launch: FinalLaunch) -> list[Row]:
        plan, size = launch.plan, launch.global_batch_size
        result = self._run(plan, size, None, Role.FINAL, round=launch.round)
        if not self._worth_repeating(result):
            return [result.row]
        again = self._run(plan, size, None, Role.FINAL, round=launch.round)
        self._note_repetition(again)
        return [result.row, again.row]

    def _size_of(self, row: Row) -> int:
        """Key of the workload that a trial trained."""
        return next(size for size, w in self.experiment.workloads.items() if w.workload_id == row["workload_id"])

    def _of(self, rows: Sequence[Row], size: int) -> list[Row]:
        workload_id = self.experiment.workloads[size].workload_id
        return [row for row in rows if row["workload_id"] == workload_id]
