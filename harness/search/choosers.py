"""Choosers: what answers when a space asks "which value?"."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

from strategies.knob import Range, Setting

T = TypeVar("T")

Domain = tuple[Setting, ...] | Range
"""What may be chosen: one of several values, or a number of a range."""


class Chooser(Protocol):
    """Chooses a value of a domain. `name` stands for the same domain each time it is asked."""

    def __call__(self, name: str, domain: Domain, /) -> Setting: ...


def contains(domain: Domain, value: Setting) -> bool:
    """Whether `value` may be chosen from `domain`."""
    return domain.accepts(value) if isinstance(domain, Range) else value in domain


def points(domain: Domain) -> tuple[Setting, ...]:
    """The values of a domain that grid search tries, each once."""
    if not isinstance(domain, Range):
        return tuple(dict.fromkeys(domain))
    number = int if domain.integer else float
    return tuple(dict.fromkeys(number(value) for value in domain.points))


def at_random(rng: random.Random) -> Chooser:
    """Chooses uniformly, or uniformly in the logarithm where the range says so."""

    def choose(name: str, domain: Domain) -> Setting:
        if not isinstance(domain, Range):
            return rng.choice(domain)
        if domain.log:
            value = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
        else:
            value = rng.uniform(domain.low, domain.high)
        value = min(max(value, domain.low), domain.high)
        return round(value) if domain.integer else value

    return choose


def on_grid(rng: random.Random) -> Chooser:
    """Chooses at random, of a range one of its points."""
    return lambda name, domain: rng.choice(points(domain))


class Reader:
    """Chooses what a plan has; `seen` keeps each choice that its domain allowed.

    Args:
        read: name of a choice -> the plan's value; KeyError if the plan has none.
    """

    def __init__(self, read: Callable[[str], Setting]) -> None:
        self._read = read
        self.seen: dict[str, tuple[Domain, Setting]] = {}

    def __call__(self, name: str, domain: Domain, /) -> Setting:
        value = self._read(name)
        if contains(domain, value):
            self.seen[name] = (domain, value)
        return value

    @property
    def params(self) -> Mapping[str, Setting]:
        """Name of the choice -> value."""
        return {name: value for name, (_, value) in self.seen.items()}


def every(draw: Callable[[Chooser], T]) -> Iterator[T]:
    """What `draw` returns for each way of answering it with grid points, the last choice turning fastest."""
    path: list[int] = []
    while True:
        choose, widths = _follow(path)
        yield draw(choose)
        while path and path[-1] == widths[len(path) - 1] - 1:
            path.pop()
        if not path:
            return
        path[-1] += 1


def _follow(path: list[int]) -> tuple[Chooser, list[int]]:
    """A chooser that takes the points at the indices of `path`, and the first one where the path has ended."""
    widths: list[int] = []

    def choose(name: str, domain: Domain) -> Setting:
        values = points(domain)
        if len(widths) == len(path):
            path.append(0)
        widths.append(len(values))
        return values[path[len(widths) - 1]]

    return choose, widths
