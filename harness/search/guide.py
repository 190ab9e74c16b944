"""What a search is told beforehand: a prediction of points, and the points that it makes a search begin with."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from harness.search.choosers import Chooser, Domain, at_random
from harness.search.spaces import Point, Spaces
from strategies.base import Range, Setting

MOST_CANDIDATES = 4000
"""Points of the grid that are looked at; of a larger one so many are drawn."""


class Guide(Protocol):
    """A prediction of what a trial would come to."""

    def prepare(self, points: Sequence[Point]) -> None:
        """Told which points it will be asked about, so that it can look at them together."""

    def values(self, point: Point) -> tuple[float, ...] | None:
        """One positive value for each objective of the study; None if nothing is known."""

    def why_not(self, point: Point) -> str | None:
        """One sentence saying why the point is not worth a launch, or None."""


class Blind:
    """Knows nothing."""

    def prepare(self, points: Sequence[Point]) -> None:
        pass

    def values(self, point: Point) -> tuple[float, ...] | None:
        return None

    def why_not(self, point: Point) -> str | None:
        return None


def candidates(spaces: Spaces, rng: random.Random) -> list[Point]:
    """Points of the grid that can run, all of them if they are not too many, each once."""
    found = list(islice(spaces.grid(), MOST_CANDIDATES + 1))
    if len(found) > MOST_CANDIDATES:
        choose = _on_grid(rng)
        drawn = (spaces.draw(choose) for _ in range(MOST_CANDIDATES))
        found = [point for point in drawn if spaces.why_not(point) is None]
    return list(dict.fromkeys(found))


def first_points(spaces: Spaces, guide: Guide, signs: Sequence[float], seed: int) -> list[Point]:
    """What a guided search begins with: the plan predicted to be best of each way of using each strategy.

    Args:
        spaces: what is searched.
        guide: what is predicted.
        signs: 1 for each objective that is minimised, -1 for each that is maximised.
        seed: of what is drawn.
    """
    costs: dict[Point, float] = {}

    def cost(point: Point) -> float:
        if point not in costs:
            values = guide.values(point)
            known = values is not None and all(value > 0 for value in values)
            costs[point] = sum(s * math.log(v) for s, v in zip(signs, values or (), strict=True)) if known else math.inf
        return costs[point]

    grid = candidates(spaces, random.Random(seed))
    guide.prepare(grid)
    found = [point for point in grid if guide.why_not(point) is None]
    if not any(map(math.isfinite, map(cost, found))):
        return spaces.showcases()
    return spaces.best_showcases(found, cost)


def _on_grid(rng: random.Random) -> Chooser:
    """Chooses at random, of a range one of its points."""
    choose = at_random(rng)

    def answer(name: str, domain: Domain) -> Setting:
        if isinstance(domain, Range):
            value = rng.choice(domain.points)
            return int(value) if domain.integer else float(value)
        return choose(name, domain)

    return answer
