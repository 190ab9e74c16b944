"""The space of plans, described once: sampling, grid search, showcases and resuming all run the same `draw`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from harness.errors import InputError
from harness.plan import Plan
from harness.search import feasible, showcases
from harness.search.choices import Choices
from harness.search.choosers import Chooser, Domain, Reader, at_random, every
from harness.search.layout import Layout
from strategies.knob import Range, Setting

LAYOUT = "layout"
"""Name of the first choice: the degrees of all axes at once, because their product is given."""

CORE = ("data_parallel", *Layout._fields, "micro_batch_size")
"""Knobs that `draw` settles before all others."""

_PROBES = 200
"""Random plans of a layout that must all be refused before the layout is left out."""

_REASONS_SHOWN = 6


class Space(Choices):
    """Every plan of one workload, at one global batch size, on one world size.

    Raises:
        UnknownNameError, InputError: as `Choices`; or no plan can use the world size.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._others = tuple(knob for knob in self.knobs if knob.name not in CORE)
        self.layouts = self._usable_layouts()
        """Layouts with at least one plan that can run."""
        self._labels = tuple(layout.label for layout in self.layouts)

    # -- drawing

    def draw(self, choose: Chooser) -> Plan:
        """A plan, each choice made by `choose`.

        Choices with one candidate are not asked for. The plan may still be one that `why_not` refuses.
        """
        return self._draw_at(Layout.parse(str(pick(choose, LAYOUT, self._labels))), choose)

    def _draw_at(self, layout: Layout, choose: Chooser) -> Plan:
        settings: dict[str, Setting] = dict(layout._asdict())
        settings["data_parallel"] = pick(choose, "data_parallel", self.data_parallel(layout.dp))
        # Optuna wants one set of candidates under one name, and the divisors depend on the share of a rank alone.
        share = self.facts.global_batch_size // layout.dp
        settings["micro_batch_size"] = pick(choose, f"micro_batch_size.of{share}", self.micro_batches(layout.dp))
        for knob in self._others:
            if knob.applies(settings):
                settings[knob.name] = pick(choose, knob.name, self.domains[knob.name])
        # Every value is one that its knob's domain offers: to check them again would take most of the time.
        return Plan(tuple((knob.name, settings[knob.name]) for knob in self.knobs if knob.written(settings)))

    def trace(self, plan: Plan) -> Reader:
        """The choices of `draw` on the way to `plan`, without those that the space does not offer."""
        return self._trace(plan)[0]

    def params_of(self, plan: Plan) -> Mapping[str, Setting] | None:
        """Name of each choice -> value with which `draw` returns `plan`; None if the plan lies outside the space."""
        reader, drawn, asked = self._trace(plan)
        return reader.params if drawn == plan and asked == len(reader.seen) else None

    def _trace(self, plan: Plan) -> tuple[Reader, Plan | None, int]:
        asked: list[str] = []
        held = {**{knob.name: knob.default for knob in self.knobs if knob.implied}, **plan}

        def read(name: str) -> Setting:
            asked.append(name)
            return Layout.of(plan).label if name == LAYOUT else held[name.partition(".of")[0]]

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
        return feasible.why_not(plan, self.facts, self.registered)

    def _usable_layouts(self) -> list[Layout]:
        shown = {Layout.of(plan) for plan in self.showcases() if self.why_not(plan) is None}
        reasons = dict(self.refused_layouts)
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
            **{
                knob.name: written(self.domains[knob.name])
                for knob in self.knobs
                if not (knob.implied and self.domains[knob.name] == (knob.default,))
            },
        }


def pick(choose: Chooser, name: str, domain: Domain) -> Setting:
    """What is chosen of a domain; a single candidate is not asked for."""
    if isinstance(domain, tuple) and len(domain) == 1:
        return domain[0]
    return choose(name, domain)


def written(domain: Domain) -> str:
    """A domain as `describe` holds it."""
    if isinstance(domain, Range):
        return f"{domain.describe()}{' (log)' if domain.log else ''}"
    return ", ".join(map(str, domain))


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count != 1 else ''}"
