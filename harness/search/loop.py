"""The sweep's loop: ask, refuse or launch, tell; first every strategy once, then what the sampler asks for."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import optuna

from harness.plan import Plan
from harness.search import samplers
from harness.search.choosers import at_random
from harness.search.evaluation import Budget, Evaluate, Evaluation, Event, Phase, Recorded, Refuse, Summary, Ticket
from harness.search.guide import Blind, Guide
from harness.search.ledger import Ledger
from harness.search.space import Space
from harness.search.spaces import Point, Spaces
from harness.store.records import Outcome

FRUITLESS_DRAWS = 30
"""Draws in a row without a launch after which the sampler is passed over for a random plan that was not tried.

Halved each time that happens, down to one, and doubled when the sampler finds a new plan itself: a Gaussian process
over knobs of few values can ask for its favourite hundreds of times, and each time costs a fit.
"""

ATTEMPTS = 3
"""How often a plan is launched that the system takes away each time: it may be the plan that brings that about."""

RANDOM_DRAWS = 300
"""Random draws in a row that must all be known or refused before the space counts as used up."""


def run(
    study: optuna.Study,
    space: Space | Mapping[int, Space] | Spaces,
    evaluate: Evaluate,
    refuse: Refuse,
    budget: Budget,
    *,
    sampler: str = "tpe",
    guide: Guide | None = None,
    first: Sequence[Point] | None = None,
    seed: int = 0,
    recorded: Iterable[Recorded] = (),
    on_event: Callable[[Event], None] = lambda event: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Spend a budget on the plans of a space. What earlier runs of the study have tried is not tried again.

    Args:
        study: from `open_study`.
        space: one space, or global batch size in samples -> its space, or `Spaces`.
        evaluate: launches and records one trial.
        refuse: records one plan that cannot run; called once per plan.
        budget: when to stop launching.
        sampler: one of `samplers.names()`.
        guide: what is predicted of points; it may say why one is not worth a launch.
        first: points that are tried before the sampler is asked; the showcases of the space if None.
        seed: of everything that is drawn.
        recorded: the sweep's trials in the store, so that a killed run is taken up where it ended.
        on_event: told when a trial begins and ends.
        clock: monotonic time, in s.

    Raises:
        InputError: unknown sampler, or the study was begun with another space.
        Exception: whatever `evaluate` or `refuse` raised, KeyboardInterrupt apart.
    """
    samplers.check(sampler, len(study.directions))
    ledger = Ledger(study, space if isinstance(space, Spaces) else Spaces(space))
    ledger.reconcile(recorded)
    # A resumed run must not draw the numbers of the first run again.
    seed += len(study.get_trials(deepcopy=False))
    guide = guide or Blind()
    study.sampler = samplers.build(
        sampler, seed=seed, objectives=len(study.directions), spaces=ledger.spaces, guide=guide
    )
    first = ledger.spaces.showcases() if first is None else first
    loop = _Loop(ledger, evaluate, refuse, budget, on_event, clock, guide, first)
    unseen = _from_grid(ledger) if sampler == samplers.GRID else _unseen(ledger, random.Random(seed))
    try:
        stopped = loop.run(unseen, grid_only=sampler == samplers.GRID)
    except KeyboardInterrupt:
        stopped = "it was interrupted"
        loop.interrupted = True
    return loop.summary(stopped)


class _Loop:
    """One run of a sweep: its parts and its counters."""

    def __init__(
        self,
        ledger: Ledger,
        evaluate: Evaluate,
        refuse: Refuse,
        budget: Budget,
        on_event: Callable[[Event], None],
        clock: Callable[[], float],
        guide: Guide,
        first: Sequence[Point],
    ) -> None:
        self.ledger, self.evaluate, self.refuse = ledger, evaluate, refuse
        self.guide, self.first = guide, first
        self.budget, self.on_event, self.clock = budget, on_event, clock
        self.start_s = clock()
        self.durations_s: list[float] = []
        self.ended: list[tuple[Plan, Evaluation]] = []
        self.fruitless = self.repeated = 0
        self.patience = FRUITLESS_DRAWS
        self.interrupted = False
        self.phase = Phase.SHOWCASE

    def run(self, unseen: Iterator[Point], grid_only: bool) -> str:
        """Try plans until there is a reason to stop, and return it."""
        for point in self.first:
            if point not in self.ledger.known:
                self.ledger.enqueue(point)
        while not self.interrupted:
            if spent := self._spent():
                return spent
            if not self.ledger.waiting:
                self.phase = Phase.SEARCH
                if grid_only or self.fruitless >= self.patience:
                    new = next(unseen, None)
                    if new is None:
                        return self._used_up(grid_only)
                    self.phase = Phase.UNSEEN
                    self.patience = max(1, self.patience // 2)
                    self.ledger.enqueue(new)
            self._step()
        return "a trial was interrupted"

    def _spent(self) -> str | None:
        trial_s = statistics.median(self.durations_s) if self.durations_s else 0.0
        return self.budget.spent(self.ledger.launched, self.clock() - self.start_s, trial_s)

    def _used_up(self, grid_only: bool) -> str:
        if self.ledger.spaces.finite:
            return "every plan of the space was tried"
        return "every plan of the grid was tried" if grid_only else f"{RANDOM_DRAWS} draws gave no plan that is new"

    def _step(self) -> None:
        trial, point = self.ledger.ask()
        ticket = Ticket(trial.number, point.global_batch_size)
        if point in self.ledger.known:
            self.repeated += 1
            self.fruitless += 1
            self._tell_display(point, ticket, self.ledger.tell_again(trial, point), repeated=True)
            return
        reason = self.ledger.spaces.why_not(point) or self.guide.why_not(point)
        if reason is not None:
            self.fruitless += 1
            evaluation = self.refuse(point.plan, ticket, reason)
            self.ledger.tell_refused(trial, point, evaluation)
        else:
            self.fruitless = 0
            if self.phase is Phase.SEARCH:
                self.patience = min(FRUITLESS_DRAWS, 2 * self.patience)
            evaluation = self._launch(point, ticket)
            self.ledger.tell(trial, point, evaluation)
        self.interrupted = evaluation.outcome is Outcome.INTERRUPTED
        self.ended.append((point.plan, evaluation))
        self._tell_display(point, ticket, evaluation)

    def _launch(self, point: Point, ticket: Ticket) -> Evaluation:
        self._tell_display(point, ticket, None)
        for attempt in range(1, ATTEMPTS + 1):
            begun_s = self.clock()
            evaluation = self.evaluate(point.plan, ticket)
            if evaluation.outcome is not Outcome.PREEMPTED or self._spent():
                break
            if attempt == ATTEMPTS:
                evaluation = replace(evaluation, given_up=True)
            else:
                self.ended.append((point.plan, evaluation))
        if not evaluation.cut_short:
            self.durations_s.append(self.clock() - begun_s)
        return evaluation

    def _tell_display(
        self, point: Point, ticket: Ticket, evaluation: Evaluation | None, *, repeated: bool = False
    ) -> None:
        self.on_event(
            Event(
                plan=point.plan,
                ticket=ticket,
                phase=self.phase,
                evaluation=evaluation,
                repeated=repeated,
                launched=self.ledger.launched,
            )
        )

    def summary(self, stopped: str) -> Summary:
        """How the run went."""
        return Summary(
            stopped=stopped,
            interrupted=self.interrupted,
            launched=sum(evaluation.launched for _, evaluation in self.ended),
            launched_in_all=self.ledger.launched,
            repeated=self.repeated,
            outcomes=dict[Outcome, int](Counter(evaluation.outcome for _, evaluation in self.ended)),
            failures=tuple((plan, evaluation) for plan, evaluation in self.ended if evaluation.values is None),
            untried=tuple(point.plan for point in self.ledger.waiting),
            best=self.ledger.best(),
        )


def _from_grid(ledger: Ledger) -> Iterator[Point]:
    """Points of the grid that were not tried, in order."""
    return (point for point in ledger.spaces.grid() if point not in ledger.known)


def _unseen(ledger: Ledger, rng: random.Random) -> Iterator[Point]:
    """Points that were not tried and can run: drawn at random, and when that has become hard from a finite grid."""
    choose = at_random(rng)
    draws = 0
    while draws < RANDOM_DRAWS:
        point = ledger.spaces.draw(choose)
        draws += 1
        if point not in ledger.known and ledger.spaces.why_not(point) is None:
            draws = 0
            yield point
    if ledger.spaces.finite:
        yield from _from_grid(ledger)
