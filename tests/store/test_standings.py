from __future__ import annotations

import math
from typing import Any

import pytest

from harness.store.standings import order, standings

LIMIT = 1000


def launch(plan: str, rate: float, role: str = "search", **columns: Any) -> dict[str, Any]:
    """A launch whose steps have a 95 % interval of 2 % around their median."""
    return {
        "trial_id": f"{plan}-{rate:g}-{role}",
        "plan_id": plan,
        "outcome": "ok",
        "role": role,
        "tokens_per_s": rate,
        "tokens_per_s_low": 0.98 * rate,
        "tokens_per_s_high": 1.02 * rate,
        "step_time_s": 100 / rate,
        "time_to_loss_s": None,
        "peak_memory_bytes": 500,
        "disturbed": None,
        **columns,
    }


def ranked(rows: list[dict[str, Any]], objective: str = "throughput") -> list[str]:
    return [plan.row["plan_id"] for plan in order(standings(rows).plans, objective, LIMIT)]


def finals(plan: str, *rates: float) -> list[dict[str, Any]]:
    """Final launches that belong to no common rounds."""
    return [launch(plan, rate, "final") for rate in rates]


def rounds(plan: str, *rates: float) -> list[dict[str, Any]]:
    return [launch(plan, rate, "final", round=number) for number, rate in enumerate(rates, start=1)]


def test_what_a_round_does_to_all_its_launches_does_not_hide_a_difference() -> None:
    drift = (1.0, 0.9, 1.1, 0.95)
    rows = [
        *rounds("a", *(100 * d for d in drift)),
        *rounds("b", *(97.1 * d * e for d, e in zip(drift, (1, 0.999, 1, 1.001), strict=True))),
    ]
    known = standings(rows)
    a, b = known.plans
    assert known.within_rounds is not None
    assert known.within_rounds.deviation < 0.001
    assert not known.tied(a, b)
    unblocked = standings([{**row, "round": None} for row in rows])
    assert unblocked.within_rounds is None
    assert unblocked.tied(*unblocked.plans)


def test_a_round_that_misses_a_finalist_does_not_count_for_the_others() -> None:
    rows = [*rounds("a", 100, 101, 50), *rounds("b", 90, 91)]
    known = standings(rows)
    assert [len(plan.launches) for plan in known.plans] == [2, 2]
    assert known.plans[0].row["tokens_per_s"] == pytest.approx(math.sqrt(100 * 101))


def test_of_a_launch_that_was_repeated_in_its_round_the_calm_one_counts() -> None:
    rows = [*rounds("a", 100, 101), *rounds("b", 90, 91)]
    rows.insert(1, launch("a", 60, "final", round=1, disturbed="others"))
    assert standings(rows).plans[0].row["tokens_per_s"] == pytest.approx(math.sqrt(100 * 101))


def test_a_finalist_whose_launch_was_cut_short_has_not_failed() -> None:
    cut = launch("a", 1, "final", round=3, outcome="interrupted")
    known = standings([*rounds("a", 100, 101), *rounds("b", 90, 91), cut])
    assert [plan.failures for plan in known.plans] == [0, 0]


def test_plans_that_met_only_through_a_third_one_are_known_less_well() -> None:
    def row(plan: str, rate: float, number: int) -> dict[str, Any]:
        return launch(plan, rate, "final", round=number)

    both = [row(p, r * e, n) for n, e in enumerate((1, 1.01, 0.99, 1), 1) for p, r in (("a", 100), ("c", 90))]
    both += [row(p, r * e, n) for n, e in enumerate((1, 1.02, 0.99, 1.01), 5) for p, r in (("b", 98), ("c", 90.5))]
    known = standings(both)
    assert known.blocks is not None
    assert known.blocks.common("a", "c") == pytest.approx(4.0)
    assert known.blocks.common("a", "b") == pytest.approx(2.0)


def test_the_difference_of_two_finalists_has_an_interval() -> None:
    known = standings([*rounds("a", 100, 102, 104), *rounds("b", 90, 92.5, 93)])
    a, b = known.plans
    found = known.difference(a, b)
    assert found is not None
    middle, low, high = found
    assert low < 0.11 < high
    assert middle == pytest.approx((100 * 102 * 104 / (90 * 92.5 * 93)) ** (1 / 3) - 1)
    assert known.difference(a, standings([launch("c", 1)]).plans[0]) is None


def test_plans_launched_once_are_ranked_by_that_launch() -> None:
    assert ranked([launch("a", 100), launch("b", 120)]) == ["b", "a"]


def test_only_final_launches_count_where_there_are_some() -> None:
    known = standings([launch("lucky", 200), *finals("lucky", 100, 102, 104)])
    assert known.plans[0].row["tokens_per_s"] == pytest.approx((100 * 102 * 104) ** (1 / 3))
    assert known.plans[0].row["launches"] == 3


def test_a_plan_that_was_not_launched_again_cannot_win_over_finalists() -> None:
    rows = [launch("a", 110), launch("b", 109), *finals("a", 100, 101, 102), launch("c", 108)]
    assert ranked(rows) == ["a", "b", "c"]


def test_the_spread_is_pooled_over_the_finalists() -> None:
    rows = [*finals("a", 100, 102, 104), *finals("b", 90, 91, 92), launch("c", 80)]
    known = standings(rows)
    logs = [[math.log(rate) for rate in rates] for rates in ((100, 102, 104), (90, 91, 92))]
    squares = sum((x - sum(group) / 3) ** 2 for group in logs for x in group)
    assert known.spread is not None
    assert (known.spread.deviation, known.spread.freedom) == (pytest.approx(math.sqrt(squares / 4)), 4)


def test_plans_within_the_spread_are_tied_and_others_are_not() -> None:
    rows = [*finals("a", 100, 104, 108), *finals("b", 99, 103, 107), *finals("c", 70, 73, 76)]
    known = standings(rows)
    a, b, c = known.plans
    assert known.tied(a, b)
    assert not known.tied(a, c)


def test_one_launch_is_less_sure_than_three() -> None:
    known = standings([*finals("a", 100, 102, 104), launch("c", 101)])
    a, c = (plan.row for plan in known.plans)
    assert c["tokens_per_s_high"] / c["tokens_per_s_low"] > a["tokens_per_s_high"] / a["tokens_per_s_low"]


def test_without_fresh_launches_plans_are_tied_if_their_intervals_overlap() -> None:
    known = standings([launch("a", 100), launch("b", 103), launch("c", 110)])
    a, b, c = known.plans
    assert (known.spread, known.smallest_difference) == (None, None)
    assert known.tied(a, b)
    assert not known.tied(b, c)


def test_a_disturbed_launch_counts_only_if_there_is_no_other() -> None:
    noisy = "other processes took 40 % of the usable cores' time"
    rows = [launch("a", 50, disturbed=noisy), launch("a", 100, "again"), launch("b", 70, disturbed=noisy)]
    assert {plan.row["plan_id"]: plan.row["tokens_per_s"] for plan in standings(rows).plans} == {"a": 100, "b": 70}


def test_a_plan_that_was_stopped_early_keeps_its_numbers() -> None:
    assert ranked([launch("a", 100), launch("slow", 50, outcome="stopped_early")]) == ["a", "slow"]


def test_failed_trials_have_no_standing() -> None:
    assert standings([launch("a", 100, outcome="numerics"), launch("b", 1, outcome="crash")]).plans == ()


def test_a_finalist_that_failed_in_a_final_comes_after_those_that_did_not() -> None:
    rows = [*finals("a", 100, 101), launch("a", 1, "final", outcome="crash"), *finals("b", 80, 81, 82)]
    assert ranked(rows) == ["b", "a"]


def test_the_peak_is_the_worst_of_the_launches_and_breaks_the_limit() -> None:
    rows = [*finals("a", 100, 101), launch("a", 102, "final", peak_memory_bytes=LIMIT + 1), *finals("b", 50, 51)]
    assert ranked(rows) == ["b", "a"]


def test_memory_and_time_to_loss_are_ranked_with_the_least_first() -> None:
    rows = [
        launch("a", 100, peak_memory_bytes=400, time_to_loss_s=9.0),
        launch("b", 90, peak_memory_bytes=300, time_to_loss_s=5.0),
        launch("c", 80, time_to_loss_s=None),
    ]
    assert ranked(rows, "memory") == ["b", "a", "c"]
    assert ranked(rows, "time-to-loss") == ["b", "a", "c"]
