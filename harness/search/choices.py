"""What may be chosen: the domain of each knob, and how the ranks may be divided, for one workload on one world size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from harness.errors import InputError, UnknownNameError
from harness.search.choosers import Domain, contains
from harness.search.layout import Layout, divisors, factorisations
from strategies.base import Slot, Strategy
from strategies.facts import Facts
from strategies.knob import Choice, Knob, Range, Setting


class Choices:
    """The values that a plan may be made of, whether or not strategies can run all of their combinations.

    Args:
        strategies: the strategies in play, in the order of the registry.
        knobs: all knobs of all registered strategies, each after those its condition names.
        facts: the workload's shape and the machine.
        fixed: knob -> the value it has in every plan in which it exists.
        allowed: knob -> the only values to choose from; opt-in values are tried if they are named here.
        registered: every strategy whose `check` has a say, the ones in play if not given.

    Raises:
        UnknownNameError: `fixed` or `allowed` names no knob.
        InputError: they hold a value the knob does not accept.
    """

    def __init__(
        self,
        strategies: Sequence[Strategy],
        knobs: Sequence[Knob],
        facts: Facts,
        *,
        fixed: Mapping[str, Setting] | None = None,
        allowed: Mapping[str, tuple[Setting, ...]] | None = None,
        registered: Sequence[Strategy] | None = None,
    ) -> None:
        self.strategies = tuple(strategies)
        self.knobs = tuple(knobs)
        self.facts = facts
        self.registered = self.strategies if registered is None else tuple(registered)
        asked = {**(allowed or {}), **{name: (value,) for name, value in (fixed or {}).items()}}
        self.restricted = {name: _values(name, values, self.knobs) for name, values in asked.items()}
        self.domains: dict[str, Domain] = {knob.name: self._domain(knob) for knob in self.knobs}
        refused = {layout: self._layout_refused(layout) for layout in factorisations(facts.world_size)}
        self.available = [layout for layout, reason in refused.items() if reason is None]
        """Layouts that leave every axis a value that may be chosen."""
        self.refused_layouts = {layout: reason for layout, reason in refused.items() if reason is not None}
        """The others, and why."""

    def data_parallel(self, dp: int) -> tuple[Setting, ...]:
        """Kinds of data parallelism for `dp` ranks: none for one rank, the strategies in play for more."""
        kinds = cast(tuple[Setting, ...], self.domains["data_parallel"])
        return tuple(kind for kind in kinds if (kind == "none") == (dp == 1))

    def micro_batches(self, dp: int) -> tuple[Setting, ...]:
        """Micro-batch sizes, in samples, that divide the share of each of `dp` ranks, ascending; () if it has none."""
        share, rest = divmod(self.facts.global_batch_size, dp)
        domain = self.domains["micro_batch_size"]
        return () if rest else tuple(size for size in divisors(share) if contains(domain, size))

    def _domain(self, knob: Knob) -> Domain:
        if knob.name in self.restricted:
            return self.restricted[knob.name]
        if knob.name == "data_parallel":
            return ("none", *(strategy.name for strategy in self.strategies if strategy.slot is Slot.DATA))
        if not self._in_play(knob):
            return (knob.default,)
        if isinstance(knob, Range):
            return knob
        owner = next((s for s in self.strategies if isinstance(knob, Choice) and knob in s.knobs), None)
        values = owner.searched(knob, self.facts) if owner and isinstance(knob, Choice) else knob.grid
        return values or (knob.default,)

    def _in_play(self, knob: Knob) -> bool:
        """Whether a strategy in play declares the knob, or shares it with the one that does."""
        if knob.name in ("dp", "micro_batch_size"):
            return True
        kinds = knob.when.get("data_parallel", ())
        return any(s.name in kinds or any(knob.name == own.name for own in s.knobs) for s in self.strategies)

    def _layout_refused(self, layout: Layout) -> str | None:
        batch = self.facts.global_batch_size
        for axis, degree in layout._asdict().items():
            if not contains(self.domains[axis], degree):
                return self._degree_refused(axis, degree)
        if batch % layout.dp:
            return f"the global batch of {batch} samples is not a multiple of dp={layout.dp}"
        if not self.micro_batches(layout.dp):
            return f"none of the micro-batch sizes asked for divides the {batch // layout.dp} samples of a rank"
        if not self.data_parallel(layout.dp):
            needs = f"dp={layout.dp} needs {'a data-parallel strategy' if layout.dp > 1 else 'data_parallel=none'}"
            return f"{needs}, but {self._asked('data_parallel')}"
        return None

    def _degree_refused(self, axis: str, degree: int) -> str:
        if axis in self.restricted:
            return f"{axis}={degree} is needed, but {self._asked(axis)}"
        owners = [s.name for s in self.registered if any(knob.name == axis for knob in s.knobs)]
        if owners and not any(s.name in owners for s in self.strategies):
            return f"{axis}={degree} needs {' or '.join(owners)}"
        knob = next(knob for knob in self.knobs if knob.name == axis)
        return f"{axis} must be {knob.describe()}, but {degree} is needed"

    def _asked(self, name: str) -> str:
        return f"{name} may only be {' or '.join(map(str, cast(tuple[Setting, ...], self.domains[name])))}"


def _values(name: str, values: tuple[Setting, ...], knobs: Sequence[Knob]) -> tuple[Setting, ...]:
    """The values a user asked for, as the knob's plans hold them."""
    by_name = {knob.name: knob for knob in knobs}
    if name not in by_name:
        raise UnknownNameError("knob", name, by_name)
    knob = by_name[name]
    if not values:
        raise InputError(f"{name} needs at least one value to choose from, {knob.describe()}")
    for value in values:
        if not knob.accepts(value):
            raise InputError(f"{name} must be {knob.describe()}, but got {value!r}")
    return tuple(float(value) if isinstance(knob.default, float) else value for value in dict.fromkeys(values))
