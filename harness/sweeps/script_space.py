"""The space of a script's plans: what its knobs file lets be turned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from harness.errors import InputError
from harness.plan import Plan
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.lanes import plan_of
from harness.search.choosers import Chooser, Domain, Reader, every, points
from harness.search.space import pick, written
from strategies.knob import Knob, Range, Setting


class ScriptSpace:
    """Every plan of a knobs file. A plan holds the knobs that are chosen; what follows from them is calculated.

    Args:
        script: the knobs file.
        fixed: knobs that are not searched.
        first: settings of the plan that everything is compared with, where they are not the defaults.
    """

    layouts: tuple[Any, ...] = ()

    def __init__(
        self, script: KnobsFile, fixed: Mapping[str, Setting] | None = None, first: Mapping[str, Setting] | None = None
    ) -> None:
        self.script, self.fixed = script, dict(fixed or {})
        self.knobs: tuple[Knob, ...] = script.free
        self.domains: dict[str, Domain] = {knob.name: self._domain(knob) for knob in self.knobs}
        self.baseline = self.plan({**self.fixed, **(first or {})})
        """The plan that everything is compared with."""

    def plan(self, given: Mapping[str, Setting]) -> Plan:
        """The plan with these settings, others at their defaults.

        Raises:
            InputError: it is not to be run, with the reason.
        """
        reason = self.script.why_not(self.script.plan(given))
        if reason is not None:
            raise InputError(f"this plan is not to be run: {reason}")
        return plan_of(self.script, given)

    # -- drawing

    def draw(self, choose: Chooser) -> Plan:
        """A plan, each choice made by `choose`; choices with one candidate are not asked for."""
        whole: dict[str, Setting] = {}
        chosen: list[tuple[str, Setting]] = []
        for name, each in self.script.knobs.items():
            if any(whole.get(other) not in values for other, values in each.when.items()):
                continue
            if each.value is not None:
                try:
                    whole[name] = each.value.value(whole)
                except InputError:  # `why_not` says it of the plan
                    continue
            else:
                whole[name] = pick(choose, name, self.domains[name])
                chosen.append((name, whole[name]))
        return Plan(tuple(chosen))

    def trace(self, plan: Plan) -> Reader:
        """The choices of `draw` on the way to `plan`, without those that the space does not offer."""
        reader = Reader(lambda name: plan[name])
        with contextlib.suppress(KeyError):  # a plan of other knobs
            self.draw(reader)
        return reader

    def grid(self) -> Iterator[Plan]:
        """Every plan over the knobs' grid points that can run, each once, in a fixed order."""
        return (plan for plan in dict.fromkeys(every(self.draw)) if self.why_not(plan) is None)

    @property
    def finite(self) -> bool:
        """Whether `grid` has every plan."""
        return not any(isinstance(domain, Range) and self._may_be(name) for name, domain in self.domains.items())

    # -- judging

    def why_not(self, plan: Plan) -> str | None:
        """One sentence saying why the plan is not to be run, or None."""
        try:
            whole = self.script.plan(plan)
        except InputError as error:
            return str(error)
        differing = [name for name, value in self.fixed.items() if name in plan and plan[name] != value]
        if differing:
            return f"{differing[0]} is {self.fixed[differing[0]]} in this sweep"
        return self.script.why_not(whole)

    def showcases(self) -> list[Plan]:
        """The plan that everything is compared with, then each knob alone at each end of its values."""
        found = {self.baseline: None}
        for name, domain in self.domains.items():
            ends = points(domain)
            for value in dict.fromkeys((ends[0], ends[-1])):
                plan = self._changed(name, value)
                if plan is not None:
                    found[plan] = None
        return list(found)

    def best_showcases(self, candidates: Iterable[Plan], cost: Callable[[Plan], float]) -> list[Plan]:
        """Nothing is predicted of scripts: `showcases`."""
        return self.showcases()

    def describe(self) -> dict[str, Any]:
        """What makes this space another one than the next, as JSON holds it."""
        return {
            "command": " ".join(self.script.command),
            **{name: written(domain) for name, domain in self.domains.items()},
        }

    def _may_be(self, name: str) -> bool:
        """Whether any plan has a knob: what it needs is not ruled out by what is fixed."""
        return all(self.fixed.get(other, next(iter(v))) in v for other, v in self.script.knobs[name].when.items())

    def _changed(self, name: str, value: Setting) -> Plan | None:
        try:
            return self.plan({**self.baseline, name: value})
        except InputError:
            return None

    def _domain(self, knob: Knob) -> Domain:
        if knob.name in self.fixed:
            return (self.fixed[knob.name],)
        return knob if isinstance(knob, Range) else knob.grid
