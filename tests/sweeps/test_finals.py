from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from harness.store.records import Role
from harness.store.standings import standings
from harness.sweeps.finals import MOST_ROUNDS, Rules, decide, finalists, in_turn, launched, until

RULES = Rules(objective="throughput", finalists=3, least=3, resolution=0.05, ceiling=None)


def launch(
    plan: str, rate: float, role: Role = Role.SEARCH, round: int | None = None, **columns: Any
) -> dict[str, Any]:
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
        "peak_memory_bytes": 500,
        "disturbed": None,
        **columns,
    }


def played(
    rates: dict[str, float], luck: Callable[[str, int], float], rules: Rules = RULES
) -> tuple[list[dict[str, Any]], str]:
    """Every row of finals in which launches come out by luck, and why they ended."""
    rows = [launch(plan, rate) for plan, rate in rates.items()]
    chosen = finalists(rows, rules)
    for done in range(100):
        decision = decide(chosen, rows, done, rules)
        if not decision.plans:
            return rows, decision.why
        for row in in_turn(decision.plans, done + 1):
            plan = row["plan_id"]
            rows.append(launch(plan, rates[plan] * luck(plan, done + 1), Role.FINAL, done + 1))
    raise AssertionError("they never ended")


def rounds(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["plan_id"] for row in rows if row["role"] == Role.FINAL))


def uneven(deviation: float, seed: int = 0) -> Callable[[str, int], float]:
    """Launches of one plan that differ by so much, in rounds of different moods."""
    rng = random.Random(seed)
    moods = [rng.gauss(0, 0.1) for _ in range(100)]
    return lambda plan, number: math.exp(moods[number] + rng.gauss(0, deviation))


def test_a_plan_that_is_surely_ahead_needs_no_more_than_the_least_rounds_however_uneven_launches_are() -> None:
    rows, why = played({"a": 127.0, "b": 100.0}, uneven(0.02))
    assert (rounds(rows), why) == ({"a": 3, "b": 3}, "")
    smallest = standings(rows).smallest_difference
    assert smallest is not None
    assert smallest > RULES.resolution  # which used to go on for twelve rounds


def test_further_rounds_are_for_the_plans_that_may_win() -> None:
    rows, why = played({"a": 100.0, "b": 99.5, "c": 70.0}, uneven(0.02, seed=1))
    found = rounds(rows)
    assert why == ""
    assert found["c"] == 3 < found["a"] == found["b"] < MOST_ROUNDS
    smallest = standings(rows).smallest_difference
    assert smallest is not None
    assert smallest <= RULES.resolution


def test_rounds_that_cannot_be_expected_to_help_are_not_begun() -> None:
    rows, why = played({"a": 100.0, "b": 99.0}, uneven(0.2))
    assert max(rounds(rows).values()) < MOST_ROUNDS
    assert "launches of one plan differ by" in why
    assert "a difference of 5 % would take" in why


def test_a_large_difference_is_pursued_though_a_small_one_would_never_show() -> None:
    ends = [standings(played({"a": 130.0, "b": 100.0}, uneven(0.1, seed))[0]) for seed in range(10)]
    assert sum(not known.tied(*known.plans) for known in ends) >= 9


def test_a_final_launch_that_was_cut_short_is_launched_again() -> None:
    row = launch("a", 100.0)
    assert launched(row, [launch("a", 100.0, Role.FINAL, 1)], 1)
    assert not launched(row, [launch("a", 100.0, Role.FINAL, 1, outcome="interrupted")], 1)


def test_what_the_last_round_leaves_open_is_said() -> None:
    said = {played({"a": 100.0, "b": 100.0}, uneven(0.029, seed))[1] for seed in range(30)}
    assert any(why.startswith(f"after {MOST_ROUNDS} rounds a difference of") for why in said), said


def test_rounds_end_after_the_most() -> None:
    assert (
        max(max(rounds(played({"a": 100.0, "b": 100.0}, uneven(0.027, seed))[0]).values()) for seed in range(20)) == 12
    )


def test_a_finalist_that_failed_again_cannot_win_and_gets_no_more_rounds() -> None:
    rows = [launch("a", 100.0), launch("b", 99.0), launch("c", 98.5)]
    luck = uneven(0.02)
    for number in (1, 2, 3):
        rows += [launch(plan, rate * luck(plan, number), Role.FINAL, number) for plan, rate in (("b", 99), ("c", 98.5))]
        rows.append(launch("a", 100.0, Role.FINAL, number, outcome="crash", tokens_per_s=None))
    left = decide(finalists(rows, RULES), rows, 3, RULES)
    assert {row["plan_id"] for row in left.plans} == {"b", "c"}


@pytest.mark.parametrize("changes", [{"least": 0}, {"objective": "memory"}])
def test_without_least_rounds_or_for_memory_nothing_is_pursued(changes: dict[str, Any]) -> None:
    rules = Rules(**{**vars(RULES), **changes})
    rows, why = played({"a": 100.0, "b": 100.0}, uneven(0.5), rules)
    assert (max(rounds(rows).values(), default=0), why) == (rules.least, "")


def test_a_resumed_sweep_decides_on_a_round_by_what_was_known_before_it() -> None:
    rows, _ = played({"a": 100.0, "b": 99.5, "c": 70.0}, uneven(0.02, seed=1))
    before = until(rows, 4)
    assert {row["plan_id"] for row in decide(finalists(rows, RULES), before, 3, RULES).plans} == {"a", "b"}
    assert max(row["round"] or 0 for row in before) == 3


def test_equal_plans_are_hardly_ever_called_different() -> None:
    ends = [standings(played({"a": 100.0, "b": 100.0}, uneven(0.02, seed))[0]) for seed in range(200)]
    assert sum(not known.tied(*known.plans) for known in ends) <= 19  # 5 % of them, and three standard deviations
