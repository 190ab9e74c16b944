from __future__ import annotations

import pytest

from harness.plan import Plan
from harness.search.replay import Case, Grid, Table, compare, search


def plan(tp: int, pp: int, micro_batch: int) -> Plan:
    return Plan((("tp", tp), ("pp", pp), ("micro_batch_size", micro_batch)))


def seconds(p: Plan) -> float:
    return 1.0 + 0.5 * (int(p["tp"]) - 1) + 0.3 * (int(p["pp"]) - 1) + 0.1 * abs(int(p["micro_batch_size"]) - 4)


PLANS = [plan(tp, pp, mb) for tp in (1, 2, 4) for pp in (1, 2) for mb in (1, 2, 4) if (tp, mb) != (4, 4)]
GRID = Grid(name="g", global_batch_size=8, cases=[Case(plan=p, step_time_s=seconds(p), wall_s=2.0) for p in PLANS])


def test_a_prediction_that_is_right_has_no_regret_after_one_launch() -> None:
    found = search(GRID, "guided", budget=5, seed=0, guide=Table({p: seconds(p) for p in PLANS}))
    assert found.regrets[0] == 0.0
    assert found.launches == 1
    assert found.wall_s[0] == 2.0


def test_a_prediction_that_is_upside_down_is_overcome() -> None:
    found = search(GRID, "guided", budget=len(PLANS), seed=0, guide=Table({p: 1 / seconds(p) for p in PLANS}))
    assert found.regrets[0] > 0.5
    assert found.regrets[-1] == 0.0


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid", "guided"])
def test_every_sampler_launches_each_plan_of_a_grid_at_most_once(sampler: str) -> None:
    found = search(GRID, sampler, budget=100, seed=1)
    assert len(found.regrets) == len(PLANS)
    assert found.regrets[-1] == 0.0
    assert list(found.regrets) == sorted(found.regrets, reverse=True)


def test_a_plan_that_failed_costs_a_launch_and_wins_nothing() -> None:
    cases = [Case(plan=p, step_time_s=None if p["tp"] == 1 else seconds(p)) for p in PLANS]
    found = search(Grid(name="f", global_batch_size=8, cases=cases), "grid", budget=100, seed=0)
    assert found.regrets[0] == float("inf")
    assert found.regrets[-1] == 0.0


def test_samplers_are_compared_by_launches_regret_and_what_they_save() -> None:
    guide = Table({p: seconds(p) for p in PLANS})
    found = compare([GRID], ("guided", "random"), budget=6, repeats=4, guide_of=lambda grid: guide)
    guided, random = (summary.to_json() for summary in found)
    assert guided["launches_to_2_percent_mean"] == 1.0
    assert guided["launches_saved"] == pytest.approx(1 - 1 / len(PLANS))
    assert len(guided["regret_after"]) == 6
    assert random["searches"] == 4
    assert random["launches_to_2_percent_mean"] >= 1.0
    assert random["regret_after"][0] >= guided["regret_after"][0]


def test_a_search_sees_nothing_of_what_it_did_not_launch() -> None:
    other = [Case(plan=c.plan, step_time_s=10 * (c.step_time_s or 0.0)) for c in GRID.cases]
    guide = Table({p: seconds(p) for p in PLANS})
    order = []
    for cases in (GRID.cases, other):
        grid = Grid(name="g", global_batch_size=8, cases=cases)
        order.append(search(grid, "guided", budget=4, seed=0, guide=guide).regrets)
    assert order[0] == pytest.approx(order[1])
