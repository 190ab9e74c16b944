"""How the final launches of a sweep decide, and what that costs: simulated with launches that differ by a known amount.

Rounds have moods of their own (5 %). Plans: a; b, as fast as a, or 5 % or 21 % slower; in half of the rows c, a fifth
slower. The rules are those of a sweep: at least three rounds, a resolution of 5 %, at most twelve.
"""

from __future__ import annotations

import math
import random
from typing import Any

import common

MOOD = 0.05


def row(plan: str, rate: float, role: str, round: int | None) -> dict[str, Any]:
    """What the standings read of a launch."""
    return {
        "plan_id": plan,
        "workload_id": "w",
        "outcome": "ok",
        "role": role,
        "round": round,
        "tokens_per_s": rate,
        "tokens_per_s_low": 0.98 * rate,
        "tokens_per_s_high": 1.02 * rate,
        "step_time_s": 1 / rate,
        "time_to_loss_s": None,
        "peak_memory_bytes": 1,
        "disturbed": None,
    }


def finals(rng: random.Random, rates: dict[str, float], deviation: float) -> tuple[bool, bool, int, bool, int]:
    """(a and b are told apart, a stands before b, rounds, they were given up, launches) of one sweep's finals."""
    from harness.store.standings import standings
    from harness.sweeps import finals as rule
    from harness.sweeps.config import SweepConfig

    config = SweepConfig()
    rules = rule.Rules(
        objective="throughput",
        finalists=len(rates),
        least=config.least_rounds,
        resolution=config.resolution_share,
        ceiling=None,
    )
    rows = [row(plan, rate, "search", None) for plan, rate in rates.items()]
    chosen, done = rule.finalists(rows, rules), 0
    while (decision := rule.decide(chosen, rows, done, rules)).plans:
        done += 1
        mood = rng.gauss(0, MOOD)
        turn = [each["plan_id"] for each in rule.in_turn(decision.plans, done)]
        rows += [row(plan, rates[plan] * math.exp(mood + rng.gauss(0, deviation)), "final", done) for plan in turn]
    known = standings(rows)
    a, b = (next(plan for plan in known.plans if plan.row["plan_id"] == name) for name in "ab")
    return not known.tied(a, b), a.log_rate > b.log_rate, done, bool(decision.why), len(rows) - len(rates)


def main() -> None:
    """Simulate and print the table."""
    given = common.arguments(__doc__, sweeps=1000)
    rng, table = random.Random(0), []
    for deviation in (0.01, 0.02, 0.03, 0.05):
        for slower in (0.0, 0.05, 0.21):
            for third in ({}, {"c": 80.0}):
                rates = {"a": 100.0, "b": 100.0 * (1 - slower), **third}
                found = [finals(rng, rates, deviation) for _ in range(given.sweeps)]
                called = sum(apart and (right or not slower) for apart, right, *_ in found) / len(found)
                rounds, launches = (sum(each[at] for each in found) / len(found) for at in (2, 4))
                gave_up = sum(each[3] for each in found) / len(found)
                table.append(
                    [
                        f"{deviation:.0%}",
                        f"{slower:.0%}",
                        str(len(rates)),
                        f"{called:.1%}",
                        f"{rounds:.1f}",
                        f"{launches:.1f}",
                        f"{gave_up:.0%}",
                    ]
                )
    header = ("launches differ by", "b is slower by", "plans", "told apart", "rounds", "launches", "given up")
    common.print_table(header, table, f"{given.sweeps} simulated sweeps a row.")


if __name__ == "__main__":
    main()
