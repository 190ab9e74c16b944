"""How the ranks are divided over the parallel axes of the device mesh."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, cast

from strategies.knob import Setting


class Layout(NamedTuple):
    """Degrees of the three parallel axes, in ranks."""

    dp: int
    tp: int
    pp: int

    @property
    def label(self) -> str:
        """ "dp2", "dp1.tp2", "dp2.tp2.pp2": the data-parallel degree always, the others where they exceed 1."""
        others = [f".{axis}{degree}" for axis, degree in (("tp", self.tp), ("pp", self.pp)) if degree > 1]
        return f"dp{self.dp}{''.join(others)}"

    @classmethod
    def parse(cls, label: str) -> Layout:
        """The layout that has this label."""
        degrees = {axis: int(degree) for axis, degree in re.findall(r"([a-z]+)(\d+)", label)}
        return cls(dp=degrees["dp"], tp=degrees.get("tp", 1), pp=degrees.get("pp", 1))

    @classmethod
    def of(cls, settings: Mapping[str, Setting]) -> Layout:
        """The layout of a plan."""
        return cls(*(int(cast(int, settings[axis])) for axis in cls._fields))


def divisors(number: int) -> list[int]:
    """Divisors of a positive number, ascending."""
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


def factorisations(world_size: int) -> list[Layout]:
    """Every layout of `world_size` ranks, pure data parallelism first."""
    return [
        Layout(dp=world_size // (pp * tp), tp=tp, pp=pp)
        for pp in divisors(world_size)
        for tp in divisors(world_size // pp)
    ]
