"""What goes into a trial of a sweep and what comes out; budgets, events and the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.plan import Plan
from harness.store.records import Outcome


@dataclass(frozen=True)
class Ticket:
    """Where a plan is tried."""

    number: int
    """Number of the trial in the study; `study_trial` in the store."""
    global_batch_size: int
    """Samples of one optimizer step over all ranks."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a trial ended, as far as the search needs it.

    Raises:
        ValueError: a value is not a finite number.
    """

    trial_id: str
    """Its row in the store."""
    outcome: Outcome
    """How it ended."""
    values: tuple[float, ...] | None
    """One value per objective; None if the trial must not win."""
    reason: str | None = None
    """Why it has no values, in one sentence."""
    given_up: bool = False
    """Whether it was taken away by the system so often that it is left at that."""

    def __post_init__(self) -> None:
        if self.values is not None and not all(map(math.isfinite, self.values)):
            raise ValueError(
                f"every value must be a finite number, but got {self.values}; pass None for a failed trial"
            )

    @property
    def settled(self) -> bool:
        """Whether the plan is not tried again: it would end so again, which a trial that was cut short cannot say."""
        return self.given_up or not self.cut_short

    @property
    def cut_short(self) -> bool:
        """Whether it ended for a reason that lies outside its plan."""
        return self.outcome in (Outcome.INTERRUPTED, Outcome.PREEMPTED)

    @property
    def launched(self) -> bool:
        """Whether it counts against a budget of trials."""
        return self.settled and self.outcome is not Outcome.INFEASIBLE


@dataclass(frozen=True)
class Recorded:
    """A trial of an earlier run, as the store has it."""

    plan: Plan
    ticket: Ticket
    evaluation: Evaluation


Evaluate = Callable[[Plan, Ticket], Evaluation]
"""Launches and records a trial. What it raises, other than KeyboardInterrupt, ends the sweep."""

Refuse = Callable[[Plan, Ticket, str], Evaluation]
"""Records a plan that is not launched, with the reason, as `infeasible`."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a sweep stops launching; None is no limit.

    Raises:
        ValueError: a limit is negative.
    """

    trials: int | None = None
    """Launched trials, those of earlier runs of the sweep included."""
    seconds: float | None = None
    """Wall time of this run, in s."""

    def __post_init__(self) -> None:
        for name, limit in (("trials", self.trials), ("seconds", self.seconds)):
            if limit is not None and not limit >= 0:
                raise ValueError(f"{name} >= 0 must hold, but got {name}={limit}")

    def spent(self, launched: int, elapsed_s: float, trial_s: float) -> str | None:
        """The sentence for the summary if nothing more may be launched, else None.

        Args:
            launched: trials launched so far, by earlier runs too.
            elapsed_s: since the start of this run, in s.
            trial_s: what a trial usually takes, in s; 0 if not known yet.
        """
        if self.trials is not None and launched >= self.trials:
            return f"the budget of {self.trials} trials is spent"
        if self.seconds is None:
            return None
        left_s = self.seconds - elapsed_s
        if left_s <= 0:
            return "the time budget is spent"
        if left_s < trial_s:
            return (
                f"the time budget is spent but for {left_s:.1f} s, less than the {trial_s:.1f} s a trial usually takes"
            )
        return None


class Phase(StrEnum):
    """Why a plan is tried."""

    SHOWCASE = "showcase"
    """It shows one way of using a strategy, or was cut short in an earlier run."""
    SEARCH = "search"
    """The sampler asked for it."""
    UNSEEN = "unseen"
    """Next in the grid, or drawn at random because the sampler only repeats itself."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a progress display can show."""

    plan: Plan
    ticket: Ticket
    phase: Phase
    evaluation: Evaluation | None
    """None: the trial begins."""
    repeated: bool = False
    """Whether the evaluation is an earlier one of the same plan, told again without a launch."""
    launched: int
    """Trials of the sweep that were launched and settled so far, by earlier runs too."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How one run of a sweep went."""

    stopped: str
    """Why no more was launched, one sentence."""
    interrupted: bool
    """Whether it was cut short; the plan that was running is tried again on resuming."""
    launched: int
    """Trials launched in this run."""
    launched_in_all: int
    """Trials launched by all runs of the sweep."""
    repeated: int
    """Draws of this run that were known already."""
    outcomes: Mapping[Outcome, int]
    """Outcome -> trials of this run, refused plans included."""
    failures: tuple[tuple[Plan, Evaluation], ...]
    """Plans of this run without values, with the reason."""
    untried: tuple[Plan, ...]
    """Showcases that the budget left no room for."""
    best: tuple[Plan, ...]
    """The best plan of all runs, or the Pareto front; () if no trial has values."""
