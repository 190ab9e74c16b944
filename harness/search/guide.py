"""What a search is told beforehand: a prediction of points, and the points that it makes a search begin with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from harness.search.spaces import Point, Spaces


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


def first_points(spaces: Spaces, guide: Guide, signs: Sequence[float]) -> list[Point]:
    """What a guided search begins with: the plan predicted to be best of each way of using each strategy.

    Args:
        spaces: what is searched.
        guide: what is predicted.
        signs: 1 for each objective that is minimised, -1 for each that is maximised.
    """
    costs: dict[Point, float] = {}

    def cost(point: Point) -> float:
        if point not in costs:
            values = guide.values(point)
            known = values is not None and all(value > 0 for value in values)
            costs[point] = sum(s * math.log(v) for s, v in zip(signs, values or (), strict=True)) if known else math.inf
        return costs[point]

    guide.prepare(spaces.candidates)
    found = [point for point in spaces.candidates if guide.why_not(point) is None]
    if not any(map(math.isfinite, map(cost, found))):
        return spaces.showcases()
    return spaces.best_showcases(found, cost)
