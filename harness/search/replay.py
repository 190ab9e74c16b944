"""How well samplers search: the sweep's own loop on a recorded exhaustive grid, as if it were live.

A launch is a look into the table. What a search has not launched it does not see.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from harness.plan import Plan
from harness.search import loop, samplers
from harness.search.choosers import Chooser, Domain, Reader
from harness.search.evaluation import Budget, Evaluation, Ticket
from harness.search.guide import Blind, Guide
from harness.search.spaces import Point, Spaces
from harness.store.records import Outcome
from strategies.knob import Setting

NEAR = 0.02
"""A plan this much slower than the best one counts as found."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One plan of a grid."""

    plan: Plan
    step_time_s: float | None
    """Measured; None if it failed."""
    wall_s: float = 1.0
    """What its launch took, in s."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every feasible plan of one workload on one machine, measured."""

    name: str
    global_batch_size: int
    cases: Sequence[Case]

    @property
    def best_s(self) -> float:
        """Step time of the fastest plan."""
        return min(case.step_time_s for case in self.cases if case.step_time_s is not None)


class GridSpaces(Spaces):
    """The plans of a grid as `harness.search.spaces.Spaces` has its points: knob after knob, as far as they differ.

    Args:
        grid: what is drawn from.
        first: points that a search begins with.
    """

    def __init__(self, grid: Grid, first: Sequence[Plan] = ()) -> None:
        self._grid, self._first = grid, first
        self._plans = [case.plan for case in grid.cases]
        self._knobs = list(dict.fromkeys(name for plan in self._plans for name in plan))

    def turn(self, number: int) -> dict[str, Setting]:
        """Nothing is settled before a draw."""
        return {}

    def draw(self, choose: Chooser) -> Point:
        """A plan of the grid, each choice made by `choose`."""
        left = self._plans
        for knob in self._knobs:
            values = tuple(dict.fromkeys(plan[knob] for plan in left if knob in plan))
            if len(values) > 1 and all(knob in plan for plan in left):
                # Optuna wants one set of candidates under one name.
                chosen = choose(f"{knob}.{'-'.join(map(str, values))}", values)
                left = [plan for plan in left if plan[knob] == chosen]
        if len(left) > 1:  # knobs that only some of them have
            chosen = choose("plan_id", tuple(plan.plan_id for plan in left))
            left = [plan for plan in left if plan.plan_id == chosen]
        return Point(self._grid.global_batch_size, left[0])

    def trace(self, point: Point) -> dict[str, tuple[Domain, Setting]]:
        """Name -> (domain, value) of the choices on the way to a point."""
        reader = Reader(lambda n: point.plan.plan_id if n == "plan_id" else point.plan[n.partition(".")[0]])
        self.draw(reader)
        return dict(reader.seen)

    def why_not(self, point: Point) -> str | None:
        """Every plan of a grid can run, or was tried."""
        return None

    def showcases(self) -> list[Point]:
        """What a search begins with."""
        return [Point(self._grid.global_batch_size, plan) for plan in self._first]

    def grid(self) -> Iterator[Point]:
        """Every point."""
        return (Point(self._grid.global_batch_size, plan) for plan in self._plans)

    @property
    def finite(self) -> bool:
        """A grid is."""
        return True

    def describe(self) -> dict[str, Any]:
        """What makes this grid another one than the next."""
        return {self._grid.name: {"plans": len(self._plans)}}


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One search of one grid."""

    regrets: tuple[float, ...]
    """After each launch: by which share the best plan so far is slower than the best one there is."""
    wall_s: tuple[float, ...]
    """What the launches have taken until then."""

    @property
    def launches(self) -> int | None:
        """Launches until a plan within NEAR was found; None if none was."""
        return next((number for number, regret in enumerate(self.regrets, 1) if regret <= NEAR), None)

    def regret_after(self, launches: int) -> float:
        """Regret after so many launches, or after all if there were fewer."""
        return self.regrets[min(launches, len(self.regrets)) - 1]


def search(
    grid: Grid, sampler: str, *, budget: int, seed: int, guide: Guide | None = None, first: Sequence[Plan] = ()
) -> Replayed:
    """One search.

    Args:
        grid: what is searched.
        sampler: one of `harness.search.samplers.names()`.
        budget: launches.
        seed: of everything that is drawn.
        guide: what is predicted; only the guided sampler is told.
        first: plans that the search begins with.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cases = {case.plan: case for case in grid.cases}
    best = math.inf
    regrets: list[float] = []
    walls: list[float] = []

    def evaluate(plan: Plan, ticket: Ticket) -> Evaluation:
        nonlocal best
        case = cases[plan]
        walls.append((walls[-1] if walls else 0.0) + case.wall_s)
        best = min(best, case.step_time_s or math.inf)
        regrets.append(best / grid.best_s - 1)
        failed = case.step_time_s is None
        return Evaluation(
            trial_id=plan.plan_id,
            outcome=Outcome.CRASH if failed else Outcome.OK,
            values=None if failed else (1.0 / float(case.step_time_s or 1.0),),
            reason="it failed" if failed else None,
        )

    def refuse(plan: Plan, ticket: Ticket, reason: str) -> Evaluation:
        return Evaluation(trial_id=plan.plan_id, outcome=Outcome.INFEASIBLE, values=None, reason=reason)

    loop.run(
        optuna.create_study(direction="maximize"),
        GridSpaces(grid, first),
        evaluate,
        refuse,
        Budget(trials=min(budget, len(grid.cases))),
        sampler=sampler,
        seed=seed,
        guide=guide if sampler == samplers.GUIDED and guide is not None else Blind(),
    )
    return Replayed(regrets=tuple(regrets), wall_s=tuple(walls))


@dataclass
class Summary:
    """How one sampler did over grids and repeats."""

    sampler: str
    budget: int
    searches: list[Replayed] = field(default_factory=list)
    plans: list[int] = field(default_factory=list)
    """Plans of the grid of each search."""

    def to_json(self) -> dict[str, Any]:
        """Means over searches; a search that did not find a plan within NEAR counts with its budget and one more."""
        launches = [s.launches or len(s.regrets) + 1 for s in self.searches]
        walls = [s.wall_s[min(n, len(s.wall_s)) - 1] for s, n in zip(self.searches, launches, strict=True)]
        ordered = sorted(launches)
        return {
            "sampler": self.sampler,
            "searches": len(self.searches),
            "regret_after": [
                statistics.fmean(s.regret_after(number) for s in self.searches) for number in range(1, self.budget + 1)
            ],
            "launches_to_2_percent_mean": statistics.fmean(launches),
            "launches_to_2_percent_median": statistics.median(launches),
            "launches_to_2_percent_p90": ordered[math.ceil(0.9 * len(ordered)) - 1],
            "wall_to_2_percent_s": statistics.fmean(walls),
            "not_found": sum(s.launches is None for s in self.searches),
            "launches_saved": 1 - statistics.fmean(n / size for n, size in zip(launches, self.plans, strict=True)),
        }


def compare(
    grids: Sequence[Grid],
    names: Sequence[str],
    *,
    budget: int,
    repeats: int,
    guide_of: Callable[[Grid], Guide],
    first_of: Callable[[Grid], Sequence[Plan]] = lambda grid: (),
) -> list[Summary]:
    """Every sampler on every grid, `repeats` times each with other seeds.

    Args:
        grids: what is searched.
        names: samplers.
        budget: launches of a search.
        repeats: of each search; the grid sampler, which draws nothing, searches once.
        guide_of: what is predicted of a grid, without its measurements.
        first_of: what a guided search of a grid begins with.
    """
    found = []
    for name in names:
        summary = Summary(name, budget)
        for grid in grids:
            guided = name == samplers.GUIDED
            guide, first = (guide_of(grid), first_of(grid)) if guided else (None, ())
            for seed in range(1 if name == samplers.GRID else repeats):
                summary.searches.append(search(grid, name, budget=budget, seed=seed, guide=guide, first=first))
                summary.plans.append(len(grid.cases))
        found.append(summary)
    return found


class Table:
    """Predicted step times of plans; a guide.

    Args:
        seconds: plan -> predicted step time in s.
    """

    def __init__(self, seconds: Mapping[Plan, float]) -> None:
        self._seconds = seconds

    def prepare(self, points: Sequence[Point]) -> None:
        """Everything is known already."""

    def values(self, point: Point) -> tuple[float, ...] | None:
        """What a search maximises: steps in a second."""
        seconds = self._seconds.get(point.plan)
        return None if seconds is None else (1.0 / seconds,)

    def why_not(self, point: Point) -> str | None:
        """Every plan of a grid is worth a launch."""
        return None
