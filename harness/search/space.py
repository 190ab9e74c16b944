"""The space of plans, described once: sampling, grid search, showcases and resuming all run the same `draw`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from harness.errors import InputError, UnknownNameError
from harness.plan import Plan, complete
from harness.search import feasible, showcases
from harness.search.choosers import Chooser, Domain, Reader, at_random, contains, every
from harness.search.layout import Layout, divisors, factorisations
from strategies.base import Facts, Knob, Range, Setting, Slot, Strategy

LAYOUT = "layout"
"""Name of the first choice: the degrees of all axes at once, because their product is given."""

CORE = ("data_parallel", *Layout._fields, "micro_batch_size")
"""Knobs that `draw` settles before all others."""

_PROBES = 200
"""Random plans of a layout that must all be refused before the layout is left out."""

_REASONS_SHOWN = 6


class Space:
    """Every plan of one workload, at one global batch size, on one world size.

    Args:
        strategies: the strategies in play, in the order of the registry.
        knobs: all knobs of all registered strategies, each after those its condition names.
        facts: the workload's shape and the machine.
        fixed: knob -> the value it has in every plan in which it exists.
        allowed: knob -> the only values to choose from; opt-in values are tried if they are named here.
        registered: every strategy whose `check` has a say, the ones in play if not given.

    Raises:
        UnknownNameError: `fixed` or `allowed` names no knob.
        InputError: they hold a value the knob does not accept, or no plan can use the world size.
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
        self._registered = self.strategies if registered is None else tuple(registered)
        asked = {**(allowed or {}), **{name: (value,) for name, value in (fixed or {}).items()}}
        self.restricted = {name: _values(name, values, self.knobs) for name, values in asked.items()}
        self.domains: dict[str, Domain] = {knob.name: self._domain(knob) for knob in self.knobs}
        refused = {layout: self._layout_refused(layout) for layout in factorisations(facts.world_size)}
        self.available = [layout for layout, reason in refused.items() if reason is None]
        self.layouts = self._usable_layouts({layout: reason for layout, reason in refused.items() if reason})
        self._labels = tuple(layout.label for layout in self.layouts)

    # -- drawing

    def draw(self, choose: Chooser) -> Plan:
        """A plan, each choice made by `choose`.

        Choices with one candidate are not asked for. The plan may still be one that `why_not` refuses.
        """
        return self._draw_at(Layout.parse(str(_pick(choose, LAYOUT, self._labels))), choose)

    def _draw_at(self, layout: Layout, choose: Chooser) -> Plan:
        settings: dict[str, Setting] = dict(layout._asdict())
        settings["data_parallel"] = _pick(choose, "data_parallel", self.data_parallel(layout.dp))
        # Optuna wants one set of candidates under one name, and the divisors depend on the share of a rank alone.
        share = self.facts.global_batch_size // layout.dp
        settings["micro_batch_size"] = _pick(choose, f"micro_batch_size.of{share}", self.micro_batches(layout.dp))
        for knob in self.knobs:
            if knob.name not in CORE and knob.applies(settings):
                settings[knob.name] = _pick(choose, knob.name, self.domains[knob.name])
        return complete(settings, self.knobs)

    def trace(self, plan: Plan) -> Reader:
        """The choices of `draw` on the way to `plan`, without those that the space does not offer."""
        return self._trace(plan)[0]

    def params_of(self, plan: Plan) -> Mapping[str, Setting] | None:
        """Name of each choice -> value with which `draw` returns `plan`; None if the plan lies outside the space."""
        reader, drawn, asked = self._trace(plan)
        return reader.params if drawn == plan and asked == len(reader.seen) else None

    def _trace(self, plan: Plan) -> tuple[Reader, Plan | None, int]:
        asked: list[str] = []

        def read(name: str) -> Setting:
            asked.append(name)
            return Layout.of(plan).label if name == LAYOUT else plan[name.partition(".of")[0]]

        reader = Reader(read)
        try:
            drawn = self.draw(reader)
        except (KeyError, InputError):  # a plan of other knobs or values than this space has
            drawn = None
        return reader, drawn, len(asked)

    def grid(self) -> Iterator[Plan]:
        """Every plan over the knobs' grid points that can run, each once, in a fixed order, made as it is asked for."""
        return (plan for plan in every(self.draw) if self.why_not(plan) is None)

    @property
    def finite(self) -> bool:
        """Whether `grid` has every plan of the space: no number is drawn from a range."""
        return not any(isinstance(self.domains[knob.name], Range) for knob in self.knobs if knob.name not in CORE)

    # -- judging

    def why_not(self, plan: Plan) -> str | None:
        """One sentence saying why the plan cannot run here, or None."""
        return feasible.why_not(plan, self.facts, self._registered)

    # -- what may be chosen

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
        return tuple(value for value in knob.grid if value not in knob.opt_in) or (knob.default,)

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
        owners = [s.name for s in self._registered if any(knob.name == axis for knob in s.knobs)]
        if owners and not any(s.name in owners for s in self.strategies):
            return f"{axis}={degree} needs {' or '.join(owners)}"
        knob = next(knob for knob in self.knobs if knob.name == axis)
        return f"{axis} must be {knob.describe()}, but {degree} is needed"

    def _asked(self, name: str) -> str:
        return f"{name} may only be {' or '.join(map(str, cast(tuple[Setting, ...], self.domains[name])))}"

    def _usable_layouts(self, refused: Mapping[Layout, str]) -> list[Layout]:
        """The layouts with at least one plan that can run."""
        shown = {Layout.of(plan) for plan in self.showcases() if self.why_not(plan) is None}
        reasons = dict(refused)
        usable = []
        for layout in self.available:
            reason = None if layout in shown else self._probe(layout)
            if reason is None:
                usable.append(layout)
            else:
                reasons[layout] = reason
        if usable:
            return usable
        names = ", ".join(strategy.name for strategy in self.strategies) or "(none)"
        why = "; ".join(f"{layout.label}: {reason}" for layout, reason in list(reasons.items())[:_REASONS_SHOWN])
        raise InputError(f"no plan of the strategies {names} can use {_ranks(self.facts.world_size)}: {why}")

    def _probe(self, layout: Layout) -> str | None:
        """None as soon as a random plan of this layout can run, otherwise the reason that was given most often."""
        choose = at_random(random.Random(0))
        reasons: Counter[str] = Counter()
        for _ in range(_PROBES):
            reason = self.why_not(self._draw_at(layout, choose))
            if reason is None:
                return None
            reasons[reason] += 1
        return reasons.most_common(1)[0][0]

    # -- for people and files

    def showcases(self) -> list[Plan]:
        """One plan for each way of using each strategy in play, in their order, those that cannot run included."""
        return showcases.plans(self)

    def best_showcases(self, candidates: Iterable[Plan], cost: Callable[[Plan], float]) -> list[Plan]:
        """The first plan of `showcases`, then the cheapest of these plans for each of them."""
        return showcases.best(self, candidates, cost)

    def describe(self) -> dict[str, Any]:
        """What makes this space another one than the next, as JSON holds it."""
        return {
            "world_size": self.facts.world_size,
            "strategies": [strategy.name for strategy in self.strategies],
            "layouts": [layout.label for layout in self.layouts],
            **{name: _written(domain) for name, domain in self.domains.items()},
        }


def _pick(choose: Chooser, name: str, domain: Domain) -> Setting:
    if isinstance(domain, tuple) and len(domain) == 1:
        return domain[0]
    return choose(name, domain)


def _written(domain: Domain) -> str:
    if isinstance(domain, Range):
        return f"{domain.describe()}{' (log)' if domain.log else ''}"
    return ", ".join(map(str, domain))


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count != 1 else ''}"


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
