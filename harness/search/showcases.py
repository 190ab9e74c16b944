"""Showcases: plans that show each strategy in play once, so that a search knows all of them before it narrows.

With a prediction it is the plan predicted to be best of each way of using each strategy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from harness.plan import Plan, complete
from harness.search.choices import Choices
from harness.search.choosers import contains
from harness.search.layout import Layout
from strategies.base import Slot, Strategy
from strategies.knob import Knob, Setting

ADDED = (Slot.QUANTIZATION, Slot.ATTENTION, Slot.CHECKPOINT, Slot.COMPILE, Slot.LOSS, Slot.EXTRA)
"""What can be added to any plan: left out of the showcases of other strategies, so that these can be compared."""


def plans(space: Choices) -> list[Plan]:
    """A full plan for each showcase of each strategy in play, in their order, each once.

    Plans that cannot run are included, so that the reason is recorded. A showcase that contradicts what the user
    asked for (a fixed knob, values left out) is not.
    """
    filled = (_fill(space, settings) for strategy in space.strategies for settings in strategy.showcases(space.facts))
    return list(dict.fromkeys(plan for plan in filled if plan is not None))


def best(space: Choices, candidates: Iterable[Plan], cost: Callable[[Plan], float]) -> list[Plan]:
    """The usual first plan, then for each showcase the cheapest candidate that shows the same, each once.

    A showcase that no candidate shows is filled with sensible settings, so that the reason is recorded.

    Args:
        space: what is searched.
        candidates: plans that can run.
        cost: logarithm of what is predicted of a plan, less is better.
    """
    usual, default = plans(space), {knob.name: knob.default for knob in space.knobs}
    # Of plans that cost the same, the one that leaves most knobs alone.
    known = sorted(candidates, key=lambda plan: (_coarse(cost(plan)), len(plan.differing(default))))
    found = usual[:1]
    for strategy in space.strategies:
        for wanted in strategy.showcases(space.facts):
            plan = next((p for p in known if _shows(space, p, strategy, wanted)), None) or _fill(space, wanted)
            found += [] if plan is None else [plan]
    return list(dict.fromkeys(found))


def _coarse(cost: float) -> float:
    """No prediction tells 1 % apart."""
    return cost if math.isinf(cost) else round(100 * cost)


def _shows(space: Choices, plan: Plan, strategy: Strategy, wanted: Mapping[str, Setting]) -> bool:
    """Whether a plan shows a strategy, and nothing beside it that could be had without it."""
    knobs = ((name, value) for name, value in wanted.items() if name not in Layout._fields)
    others = (other for other in space.strategies if other.slot in ADDED and other is not strategy)
    added = (other for other in others if not any(knob.name in wanted for knob in other.knobs))
    shown = strategy.active(plan) and all(plan.get(name) == value for name, value in knobs)
    return shown and not any(other.active(plan) for other in added)


def _fill(space: Choices, wanted: Mapping[str, Setting]) -> Plan | None:
    """The plan with the wanted settings and sensible others; None if the user's own settings leave no room for it."""
    wanted_knobs = {name: value for name, value in wanted.items() if name not in Layout._fields}
    if any(name in space.restricted and value not in space.restricted[name] for name, value in wanted_knobs.items()):
        return None
    searched = ((space.domains[knob.name], wanted[knob.name]) for knob in space.knobs if knob.name in wanted)
    if not all(contains(domain, value) for domain, value in searched):  # of a strategy that is not in play
        return None
    layout = _layout(space, wanted)
    settings: dict[str, Setting] = dict(layout._asdict())
    settings["data_parallel"] = wanted.get("data_parallel", _data_parallel(space, layout))
    settings["micro_batch_size"] = wanted.get("micro_batch_size", _micro_batch_size(space, layout))
    for knob in space.knobs:
        if knob.name not in settings and knob.applies(settings):
            settings[knob.name] = wanted.get(knob.name, _usual(space, knob))
    plan = complete(settings, space.knobs)
    return plan if all(plan.get(name) == value for name, value in wanted_knobs.items()) else None


def _layout(space: Choices, wanted: Mapping[str, Setting]) -> Layout:
    """The available layout nearest to the wanted degrees; one that cannot be had comes back as it was wanted."""
    tp, pp = int(wanted.get("tp", 1)), int(wanted.get("pp", 1))
    dp = int(wanted.get("dp", max(1, space.facts.world_size // (tp * pp))))
    asked = Layout(dp=dp, tp=tp, pp=pp)
    if asked in space.available:
        return asked
    same_axes = [x for x in space.available if (x.tp > 1, x.pp > 1) == (tp > 1, pp > 1)]
    plain = asked.tp == asked.pp == 1
    return next(iter(same_axes or (space.available if plain else [])), asked)


def _data_parallel(space: Choices, layout: Layout) -> Setting:
    kinds = space.data_parallel(layout.dp)
    return "ddp" if "ddp" in kinds else next(iter(kinds), "none")


def _micro_batch_size(space: Choices, layout: Layout) -> Setting:
    """The largest size that divides a rank's share; in a pipeline the largest that still fills every stage."""
    sizes = [int(size) for size in space.micro_batches(layout.dp)]
    if not sizes:
        return next(knob.default for knob in space.knobs if knob.name == "micro_batch_size")
    share = space.facts.global_batch_size // layout.dp
    return max((size for size in sizes if share // size >= layout.pp), default=min(sizes))


def _usual(space: Choices, knob: Knob) -> Setting:
    domain = space.domains[knob.name]
    if contains(domain, knob.default) or not isinstance(domain, tuple):
        return knob.default
    return domain[0]
