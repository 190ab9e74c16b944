"""Can a plan run? The rules that hold for every plan, and what its strategies say."""

from __future__ import annotations

from collections.abc import Iterable

from harness.plan import Plan
from strategies.base import Strategy
from strategies.facts import Facts


def why_not(plan: Plan, facts: Facts, strategies: Iterable[Strategy]) -> str | None:
    """One sentence saying why the plan cannot run here, or None.

    Args:
        plan: a setting for every knob.
        facts: the workload's shape and the machine.
        strategies: every registered one; those that the plan uses are asked.
    """
    reason = _core_rules(plan, facts)
    for strategy in strategies:
        if reason is None and strategy.active(plan):
            reason = strategy.check(plan, facts)
    return reason


def _core_rules(plan: Plan, facts: Facts) -> str | None:
    dp, tp, pp = int(plan["dp"]), int(plan["tp"]), int(plan["pp"])
    micro_batch, kind = int(plan["micro_batch_size"]), plan["data_parallel"]
    world, batch = facts.world_size, facts.global_batch_size
    if dp * tp * pp != world:
        return f"dp x tp x pp must be the world size, but {dp} x {tp} x {pp} = {dp * tp * pp} and there are {world}"
    if batch % (dp * micro_batch):
        return (
            "the global batch must be a multiple of dp x micro_batch_size, "
            f"but {batch} is not one of {dp} x {micro_batch} = {dp * micro_batch}"
        )
    if kind == "none" and dp > 1:
        return f"data_parallel=none leaves the gradients of different ranks apart, but dp={dp}"
    if kind != "none" and dp == 1:
        return f"data_parallel={kind} needs at least two data-parallel ranks, but dp=1 of {world}"
    return None
