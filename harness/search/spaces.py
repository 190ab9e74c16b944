"""Several global batch sizes as one space. Each is a workload of its own, so the size is part of every point."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, zip_longest
from typing import Any, NamedTuple, Protocol

from harness.plan import Plan
from harness.search.choosers import Chooser, Domain, Reader, on_grid
from harness.search.space import LAYOUT, Space
from strategies.knob import Knob, Setting

GLOBAL_BATCH_SIZE = "global_batch_size"

MOST_CANDIDATES = 4000
"""Points of a larger grid that are drawn to be looked at."""


class Point(NamedTuple):
    """What is tried: a plan at a global batch size, in samples."""

    global_batch_size: int
    plan: Plan


class PlanSpace(Protocol):
    """What is asked of a space of plans; `Space` says what each is."""

    @property
    def knobs(self) -> tuple[Knob, ...]: ...
    @property
    def layouts(self) -> Sequence[Any]: ...
    @property
    def finite(self) -> bool: ...
    def draw(self, choose: Chooser) -> Plan: ...
    def trace(self, plan: Plan) -> Reader: ...
    def why_not(self, plan: Plan) -> str | None: ...
    def grid(self) -> Iterator[Plan]: ...
    def showcases(self) -> list[Plan]: ...
    def best_showcases(self, candidates: Iterable[Plan], cost: Callable[[Plan], float]) -> list[Plan]: ...
    def describe(self) -> dict[str, Any]: ...


class Spaces:
    """One space per global batch size; with more than one, the size is the first choice.

    Args:
        spaces: one space, or global batch size in samples -> its space.
        compared: whether a value at one size means the same at another, so that the sampler may prefer a size. If
            not, the sizes take turns, and what is learnt at one size is not applied to the others.
    """

    def __init__(self, spaces: Space | Mapping[int, PlanSpace], *, compared: bool = True) -> None:
        if isinstance(spaces, Space):
            spaces = {spaces.facts.global_batch_size: spaces}
        self._spaces: dict[int, PlanSpace] = dict(spaces)
        self._apart = len(self._spaces) > 1 and not compared
        self._same_layouts = len({tuple(space.layouts) for space in self._spaces.values()}) == 1

    def turn(self, number: int) -> dict[str, Setting]:
        """What is settled before a sampler draws for the trial of this number: the size whose turn it is."""
        sizes = tuple(self._spaces)
        return {GLOBAL_BATCH_SIZE: sizes[number % len(sizes)]} if self._apart else {}

    def draw(self, choose: Chooser) -> Point:
        """A point, each choice made by `choose`."""
        sizes = tuple(self._spaces)
        size = sizes[0] if len(sizes) == 1 else int(choose(GLOBAL_BATCH_SIZE, sizes))
        return Point(size, self._spaces[size].draw(self._named(size, choose)))

    def trace(self, point: Point) -> dict[str, tuple[Domain, Setting]]:
        """Name -> (domain, value) of the choices on the way to `point`, without those the space does not offer."""
        size, plan = point
        if size not in self._spaces:
            return {}
        first: dict[str, tuple[Domain, Setting]] = {}
        if len(self._spaces) > 1:
            first[GLOBAL_BATCH_SIZE] = (tuple(self._spaces), size)
        seen = self._spaces[size].trace(plan).seen
        return first | {self._name(size, name): choice for name, choice in seen.items()}

    def why_not(self, point: Point) -> str | None:
        """One sentence saying why the point cannot run, or None."""
        if point.global_batch_size not in self._spaces:
            sizes = ", ".join(map(str, self._spaces))
            return f"the global batch must be one of {sizes} samples in this sweep, but got {point.global_batch_size}"
        return self._spaces[point.global_batch_size].why_not(point.plan)

    def showcases(self) -> list[Point]:
        """Each way of using each strategy once. The batch sizes take turns; one that cannot run it passes its turn."""
        return self._in_turns([[Point(size, plan) for plan in s.showcases()] for size, s in self._spaces.items()])

    def best_showcases(self, candidates: Sequence[Point], cost: Callable[[Point], float]) -> list[Point]:
        """Likewise, each way by the cheapest of the candidates that shows it.

        First the cheapest of each way of dividing the work, so that a short sweep knows them all; then the others, the
        cheap ones first.
        """
        each = []
        for size, space in self._spaces.items():
            plans = [point.plan for point in candidates if point.global_batch_size == size]
            found = space.best_showcases(plans, lambda plan, size=size: cost(Point(size, plan)))  # type: ignore[misc]
            each.append([Point(size, plan) for plan in found])
        ordered = sorted(self._in_turns(each), key=lambda point: (self.why_not(point) is not None, cost(point)))
        first = {_division(point): point for point in reversed(ordered)}
        return sorted(ordered, key=lambda point: first[_division(point)] is not point)

    def _in_turns(self, each: Sequence[Sequence[Point]]) -> list[Point]:
        shown = []
        for turn, points in enumerate(zip_longest(*each)):
            first = turn % len(points)
            order = [point for point in points[first:] + points[:first] if point is not None]
            shown.append(next((point for point in order if self.why_not(point) is None), order[0]))
        return shown

    def grid(self) -> Iterator[Point]:
        """Every point over the knobs' grid points that can run, in a fixed order, made as it is asked for."""
        return (Point(size, plan) for size, space in self._spaces.items() for plan in space.grid())

    def prepare(self) -> None:
        """Make the candidates now; it takes a second where they are many."""
        _ = self.candidates

    @cached_property
    def candidates(self) -> tuple[Point, ...]:
        """Points of the grid that can run, each once: all of them, or of many as many as can be looked at closely."""
        found = list(islice(self.grid(), MOST_CANDIDATES + 1))
        if len(found) > MOST_CANDIDATES:
            choose = on_grid(random.Random(0))
            drawn = (self.draw(choose) for _ in range(MOST_CANDIDATES))
            found = [point for point in drawn if self.why_not(point) is None]
        return tuple(dict.fromkeys(found))

    @property
    def finite(self) -> bool:
        """Whether `grid` has every point."""
        return all(space.finite for space in self._spaces.values())

    def defaults(self) -> dict[str, str]:
        """Knob -> its default, as `describe` writes it."""
        space = next(iter(self._spaces.values()))
        return {knob.name: str(knob.default) for knob in space.knobs}

    def describe(self) -> dict[str, Any]:
        """What makes this space another one than the next, as JSON holds it."""
        return {str(size): space.describe() for size, space in self._spaces.items()}

    def _name(self, size: int, name: str) -> str:
        # Optuna wants one set of candidates under one name, but a batch size may rule out layouts that another allows.
        apart = self._apart or (name == LAYOUT and not self._same_layouts)
        return f"{name}.batch{size}" if apart else name

    def _named(self, size: int, choose: Chooser) -> Chooser:
        return lambda name, domain: choose(self._name(size, name), domain)


def _division(point: Point) -> tuple[Setting, bool, bool]:
    """How a plan divides the work over ranks: its data parallelism, and whether it has the other two."""
    plan = point.plan
    return plan["data_parallel"], int(plan["tp"]) > 1, int(plan["pp"]) > 1
