"""From launches to a ranking of plans: what each plan reaches, how sure that is, and which plans cannot be told apart.

The unit of comparison is a launch: the steps of one process share its luck. Plans that were launched again to decide
between them (role "final") count with these launches alone, because the launch that brought them to the top was
partly chosen for its luck. Their pooled spread is known then, and widens the intervals of plans launched once.

Final launches come in rounds, one of each plan that may still win. Between two of these plans only differences within
rounds count: a machine's speed drifts by more than launches that follow each other differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.statistics import Blocks, Spread, blocks, pooled_spread, t_quantile
from harness.store.records import Outcome, Role

Row = Mapping[str, Any]
"""One trial: column name -> value, None where the store has none."""

USABLE = (Outcome.OK, Outcome.STOPPED_EARLY)
"""Outcomes whose numbers count."""
CUT_SHORT = (Outcome.INTERRUPTED, Outcome.PREEMPTED)
"""Outcomes that say nothing about a plan."""
PHASES = ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s")
"""Columns that add up to the wall time of a launch."""
_NORMAL = 1.96
"""Quantile of the normal distribution behind a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is known of one plan of one workload."""

    row: Row
    """The launch in the middle of those that count, with rate and step time of them all, and the worst peak."""
    launches: tuple[Row, ...]
    """Those that count."""
    failures: int
    """Final launches that did not succeed."""
    log_rate: float
    """Mean logarithm of the launches' tokens per second; of finalists over all rounds, as their plans' levels."""
    variance: float
    """Of `log_rate`."""

    @property
    def decided(self) -> bool:
        """Whether the plan was launched again to decide between the best."""
        return any(launch["role"] == Role.FINAL for launch in self.launches)


@dataclass(frozen=True, kw_only=True)
class Standings:
    """The plans of one workload."""

    plans: tuple[Standing, ...]
    """In no order."""
    spread: Spread | None
    """Between launches of one plan; None if no plan was launched again."""
    blocks: Blocks | None = None
    """What rounds of final launches say; None if there are no two rounds of the same two plans."""

    @property
    def within_rounds(self) -> Spread | None:
        """The spread between launches of one plan within rounds."""
        return None if self.blocks is None else self.blocks.spread

    def _common(self, one: Standing, other: Standing) -> float:
        """Rounds with both of two finalists that would tell as much of their difference as all rounds do."""
        assert self.blocks is not None
        return self.blocks.common(one.row["plan_id"], other.row["plan_id"])

    def _met(self, one: Standing, other: Standing) -> bool:
        levels = () if self.blocks is None else self.blocks.levels
        return one.row["plan_id"] in levels and other.row["plan_id"] in levels

    def tied(self, one: Standing, other: Standing) -> bool:
        """Whether the rates of two plans cannot be told apart at the 5 % level."""
        if self.spread is None:  # then intervals over steps are all there is
            return _overlap(one.row, other.row)
        if self.within_rounds is not None and self._met(one, other):
            return abs(one.log_rate - other.log_rate) <= self.within_rounds.call(self._common(one, other))
        quantile = t_quantile(0.975, self.spread.freedom)
        return abs(one.log_rate - other.log_rate) <= quantile * math.sqrt(one.variance + other.variance)

    def surely_apart(self, one: Standing, other: Standing) -> bool:
        """Whether more launches of two finalists would be wasted, because their rates differ whatever the next say."""
        within = self.within_rounds
        if within is None or not self._met(one, other):
            return False
        return abs(one.log_rate - other.log_rate) > within.surely(self._common(one, other))

    @property
    def smallest_difference(self) -> float | None:
        """The relative difference that would have been seen between the finalists that were launched most often; None
        if none was launched again."""
        launches = sorted(len(plan.launches) for plan in self.plans if plan.decided)
        spread = self.within_rounds or self.spread
        return spread.smallest_difference(launches[-2:][0]) if spread and launches else None

    def difference(self, one: Standing, other: Standing) -> tuple[float, float, float] | None:
        """How much faster one plan is than another, as a share: (mean, lower and upper end of its 95 % interval).

        None unless both were launched again in the same rounds.
        """
        if self.within_rounds is None or not self._met(one, other):
            return None
        middle = one.log_rate - other.log_rate
        error = self.within_rounds.deviation * math.sqrt(2 / self._common(one, other))
        half = t_quantile(0.975, self.within_rounds.freedom) * error
        return math.expm1(middle), math.expm1(middle - half), math.expm1(middle + half)


def standings(rows: Iterable[Row]) -> Standings:
    """The standings of the trials of one workload.

    Args:
        rows: trials of one workload, whatever their outcome, oldest first.
    """
    by_plan: dict[str, list[Row]] = {}
    for row in rows:
        by_plan.setdefault(row["plan_id"], []).append(row)
    counted = {plan: launches for plan, all_ in by_plan.items() if (launches := _counted(all_))}
    finals = {plan: launches for plan, launches in counted.items() if launches[0]["role"] == Role.FINAL}
    rounds = _rounds(finals)
    fitted = blocks([{plan: _log_rate(launch) for plan, launch in line.items()} for line in rounds])
    levels = {} if fitted is None else fitted.levels
    counted |= {plan: tuple(line[plan] for line in rounds if plan in line) for plan in levels}
    spread = pooled_spread([[_log_rate(launch) for launch in counted[plan]] for plan in finals])
    return Standings(
        plans=tuple(_standing(ls, by_plan[plan], spread, levels.get(plan)) for plan, ls in counted.items()),
        spread=spread,
        blocks=fitted,
    )


def order(plans: Sequence[Standing], objective: str, ceiling: float | None) -> list[Standing]:
    """Best first: plans within the memory they may use, without failures, launched again, then by the objective.

    Args:
        plans: of one workload, or of several if the objective compares them.
        objective: one of `config.OBJECTIVES`.
        ceiling: bytes that the worst rank may use; None for no limit.
    """

    def key(plan: Standing) -> tuple[bool, bool, bool, float]:
        return over(plan.row, ceiling), plan.failures > 0, not plan.decided, -score(plan.row, objective)

    return sorted(plans, key=key)


def score(row: Row, objective: str) -> float:
    """The objective so that more is better; minus infinity where it is missing."""
    column, sign = {"memory": ("peak_memory_bytes", -1), "time-to-loss": ("time_to_loss_s", -1)}.get(
        objective, ("tokens_per_s", 1)
    )
    value = row[column]
    return -math.inf if value is None else sign * float(value)


def wall(row: Row) -> float:
    """Wall time of a launch, in s."""
    return sum(float(row.get(phase) or 0.0) for phase in PHASES)


def over(row: Row, ceiling: float | None) -> bool:
    """Whether a trial used more memory than it may."""
    return ceiling is not None and held(row) > ceiling


def held(row: Row) -> float:
    """Bytes that a trial kept from others, in the worst rank: on a device its allocator's, the driver's and others'."""
    outside = row.get("memory_outside_bytes")
    if outside is None:
        return float(row["peak_memory_bytes"] or 0)
    return float(row["peak_reserved_bytes"] or row["peak_memory_bytes"] or 0) + float(outside)


def _counted(launches: Sequence[Row]) -> tuple[Row, ...]:
    """The launches of a plan that say what it reaches: final ones if there are, else those nobody disturbed."""
    usable = [row for row in launches if row["outcome"] in USABLE and row["tokens_per_s"]]
    calm = [row for row in usable if row["disturbed"] is None] or usable
    finals = [row for row in calm if row["role"] == Role.FINAL]
    if finals:
        return tuple(finals)
    # A launch that ran its course knows more than one that was stopped early.
    whole = [row for row in calm if row["outcome"] == Outcome.OK] or calm
    return tuple(whole[-1:])


def _rounds(finals: Mapping[str, Sequence[Row]]) -> list[dict[str, Row]]:
    """Of each round of at least two finalists plan_id -> launch; the last launch of a round counts."""
    found: dict[int, dict[str, Row]] = {}
    for plan, launches in finals.items():
        for launch in launches:
            if launch.get("round") is not None:
                found.setdefault(launch["round"], {})[plan] = launch
    return [found[number] for number in sorted(found) if len(found[number]) > 1]


def _standing(launches: tuple[Row, ...], every: Sequence[Row], spread: Spread | None, level: float | None) -> Standing:
    rates = [_log_rate(row) for row in launches]
    log_rate = sum(rates) / len(rates) if level is None else level
    variance = _step_variance(launches) if spread is None else _variance(launches, spread)
    middle = sorted(launches, key=lambda row: float(row["tokens_per_s"]))[len(launches) // 2]
    failures = sum(row["role"] == Role.FINAL and row["outcome"] not in (*USABLE, *CUT_SHORT) for row in every)
    whole = Standing(row=middle, launches=launches, failures=failures, log_rate=log_rate, variance=variance)
    return replace(whole, row=_summarised(whole, spread))


def _variance(launches: tuple[Row, ...], spread: Spread) -> float:
    """Of a mean of launches. One launch has the spread of all plans' launches, and that of its own few steps."""
    if len(launches) > 1:
        return spread.deviation**2 / len(launches)
    return spread.deviation**2 + _step_variance(launches)


def _step_variance(launches: tuple[Row, ...]) -> float:
    low, high = launches[0]["tokens_per_s_low"], launches[0]["tokens_per_s_high"]
    return (math.log(high / low) / 2 / _NORMAL) ** 2 if low and high else 0.0


def step_tokens(row: Row) -> float:
    """Tokens (samples where seq_len is 1) of one step of a trial; without a rate, those of one sequence a sample."""
    if row.get("tokens_per_s") and row.get("step_time_s"):
        return float(row["tokens_per_s"] * row["step_time_s"])
    return float(row["global_batch_size"] * row["seq_len"])


def _summarised(plan: Standing, spread: Spread | None) -> dict[str, Any]:
    """A row that reads like a trial's, with what the launches say together."""
    row = dict(plan.row)
    rate = math.exp(plan.log_rate) if plan.decided else float(row["tokens_per_s"])
    peaks = [launch["peak_memory_bytes"] for launch in plan.launches if launch["peak_memory_bytes"] is not None]
    row |= {"launches": len(plan.launches), "peak_memory_bytes": max(peaks, default=None)}
    scale = row["tokens_per_s"] / rate
    row |= {name: row[name] * scale for name in ("step_time_s", "time_to_loss_s") if row[name] is not None}
    row |= {"real_tokens_per_s": row["real_tokens_per_s"] / scale} if row.get("real_tokens_per_s") else {}
    row["tokens_per_s"] = rate
    if spread is not None:
        half = t_quantile(0.975, spread.freedom) * math.sqrt(plan.variance)
        row |= {"tokens_per_s_low": rate * math.exp(-half), "tokens_per_s_high": rate * math.exp(half)}
    return row


def _log_rate(row: Row) -> float:
    return math.log(row["tokens_per_s"])


def _overlap(one: Row, other: Row) -> bool:
    ends = [row[name] for row in (one, other) for name in ("tokens_per_s_low", "tokens_per_s_high")]
    if any(end is None for end in ends):
        return False
    low, high, other_low, other_high = ends
    return bool(other_high >= low and other_low <= high)
