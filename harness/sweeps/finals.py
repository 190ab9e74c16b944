"""Final launches: which plans are launched again to decide between the best, and when enough is known.

They come in rounds. Every finalist has a part in the first ones. After that a round is for the plans that may still
win: those that are surely slower than the best one need no more launches, and those that cannot be told from it need
them only until a difference of the size that was asked for would have shown, or more rounds cannot be expected to help.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.statistics import Spread
from harness.store import standings
from harness.store.records import Role
from harness.store.standings import Row, Standing, Standings

MOST_ROUNDS = 12
"""Rounds of final launches, however far apart the launches of one plan lie."""
FORESEEN = 1000
"""Rounds up to which it is said how many would be needed."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What final launches are to find out."""

    objective: str
    """One of `config.OBJECTIVES`."""
    finalists: int
    """Plans of each workload."""
    least: int
    """Rounds that every finalist has a part in; 0: there are none at all."""
    resolution: float
    """Difference in speed that must show between plans that may win, as a share."""
    ceiling: float | None
    """Bytes that the winner's worst rank may hold; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the next round is for."""

    plans: tuple[Row, ...] = ()
    """Finalists to launch; () if it is not worth while."""
    why: str = ""
    """Why there is none although an answer is open, in one sentence."""


def finalists(rows: Sequence[Row], rules: Rules) -> list[Row]:
    """The best plans of one workload by what the search saw of them.

    Args:
        rows: every trial of the workload.
        rules: how many, by which objective.
    """
    searched = [row for row in rows if row["role"] != Role.FINAL]
    ranked = standings.order(standings.standings(searched).plans, rules.objective, rules.ceiling)
    return [plan.row for plan in ranked[: rules.finalists]]


def decide(chosen: Sequence[Row], rows: Sequence[Row], done: int, rules: Rules) -> Decision:
    """Which finalists of one workload have a part in the next round.

    Args:
        chosen: the workload's finalists.
        rows: its trials, the final launches of `done` rounds among them.
        done: rounds so far.
        rules: what is to be found out.
    """
    if done < rules.least:
        return Decision(plans=tuple(chosen))
    if rules.least == 0 or rules.objective == "memory":  # a peak is the same in every launch
        return Decision()
    known = standings.standings(rows)
    open_plans = _may_win(known, {row["plan_id"] for row in chosen}, rules)
    if len(open_plans) < 2:
        return Decision()
    spread = known.within_rounds or known.spread
    launches = min(len(plan.launches) for plan in open_plans)
    smallest = None if spread is None else spread.smallest_difference(launches)
    if smallest is not None and smallest <= rules.resolution:
        return Decision()
    if done >= MOST_ROUNDS:
        return Decision(why=_unfinished(known, open_plans, smallest, rules))
    if (why := _hopeless(spread, open_plans, rules)) is not None:
        return Decision(why=why)
    still = {plan.row["plan_id"] for plan in open_plans}
    return Decision(plans=tuple(row for row in chosen if row["plan_id"] in still))


def _may_win(known: Standings, chosen: set[str], rules: Rules) -> list[Standing]:
    """The finalists that are not surely slower than the best one, which stands first."""
    decided = [plan for plan in known.plans if plan.decided and plan.row["plan_id"] in chosen and not plan.failures]
    ranked = standings.order(decided, rules.objective, rules.ceiling)
    ranked = [plan for plan in ranked if not standings.over(plan.row, rules.ceiling)]
    return [plan for plan in ranked if plan is ranked[0] or not known.surely_apart(ranked[0], plan)]


def _unfinished(known: Standings, open_plans: Sequence[Standing], smallest: float | None, rules: Rules) -> str:
    """What the last round left open; "" if the best plan is told from the others."""
    if smallest is None or not any(known.tied(open_plans[0], other) for other in open_plans[1:]):
        return ""
    return (
        f"after {MOST_ROUNDS} rounds a difference of {_percent(smallest)} would show, "
        f"where {_percent(rules.resolution)} was wanted"
    )


def _hopeless(spread: Spread | None, open_plans: Sequence[Standing], rules: Rules) -> str | None:
    """Why as many rounds as there may be will not tell these plans apart; None if they may."""
    if spread is None:
        return None
    best, *others = open_plans
    last = _after(spread.at_least(), MOST_ROUNDS, len(open_plans))
    apart = max(abs(best.log_rate - other.log_rate) for other in others)
    if last.smallest_difference(MOST_ROUNDS) <= rules.resolution or apart > last.call(MOST_ROUNDS):
        return None
    more = range(MOST_ROUNDS, FORESEEN)
    needed = next((n for n in more if _after(spread, n, 2).smallest_difference(n) <= rules.resolution), None)
    rounds = f"about {needed}" if needed else f"more than {FORESEEN}"
    return (
        f"launches of one plan differ by {_percent(spread.deviation)} here, so a difference of "
        f"{_percent(rules.resolution)} would take {rounds} rounds to show, and there are at most {MOST_ROUNDS}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _after(spread: Spread, rounds: int, plans: int) -> Spread:
    """What will be known of the spread after so many rounds of so many plans, if launches go on as they are."""
    return Spread(spread.deviation, max(spread.freedom, (plans - 1) * (rounds - 1)))


def in_turn(plans: Sequence[Row], number: int) -> Sequence[Row]:
    """A B C in odd rounds, C B A in even ones: a machine that slows down steadily then favours nobody."""
    return plans if number % 2 else plans[::-1]


def launched(row: Row, rows: Sequence[Row], number: int) -> bool:
    """Whether a finalist has its launch of a round already."""
    same = (row["plan_id"], row["workload_id"], number)
    its = (r for r in rows if r["role"] == Role.FINAL and r["outcome"] not in standings.CUT_SHORT)
    return any((r["plan_id"], r["workload_id"], r.get("round")) == same for r in its)


def until(rows: Sequence[Row], number: int) -> list[Row]:
    """What was known before a round."""
    return [row for row in rows if row["role"] != Role.FINAL or (row.get("round") or math.inf) < number]


def seconds(rows: Sequence[Row], *, final: bool) -> float:
    """Wall time of the final launches, or of those of the search, in s."""
    return sum(standings.wall(row) for row in rows if (row["role"] == Role.FINAL) == final)
