from __future__ import annotations

import optuna
import pytest

from harness.plan import Plan
from harness.search.evaluation import Budget
from harness.search.guide import Blind, first_points
from harness.search.guided import GuidedSampler
from harness.search.loop import run
from harness.search.spaces import Point, Spaces
from harness.store.records import Outcome
from tests.search.fake_machine import Machine, small, space, throughput


class Told:
    """A guide that knows the throughput, wrong by a factor, and may refuse plans."""

    def __init__(self, factor=lambda plan: 1.0, refused=lambda plan: None) -> None:
        self.factor, self.refused = factor, refused

    def prepare(self, points: list[Point]) -> None:
        pass

    def values(self, point: Point) -> tuple[float, ...] | None:
        return (throughput(point.plan) * self.factor(point.plan),)

    def why_not(self, point: Point) -> str | None:
        return self.refused(point.plan)


def searched(guide: object, trials: int, machine: Machine | None = None, first: list[Point] | None = None) -> Machine:
    machine, study = machine or Machine(), optuna.create_study(direction="maximize")
    options = {"sampler": "guided", "guide": guide, "first": [] if first is None else first}
    run(study, small(), machine.evaluate, machine.refuse, Budget(trials=trials), **options)
    return machine


def best_plan() -> Plan:
    return max(small().grid(), key=throughput)


def test_a_prediction_that_is_right_finds_the_best_plan_at_once() -> None:
    assert searched(Told(), 1).launched[0][1] == best_plan()


def test_a_prediction_that_is_wrong_about_one_value_is_corrected() -> None:
    wrong = Told(lambda plan: 3.0 if plan["precision"] == "fp32" else 1.0)
    launched = [plan for _, plan in searched(wrong, 6).launched]
    assert launched[0]["precision"] == "fp32"
    assert best_plan() in launched


def test_without_a_prediction_every_plan_is_found_once() -> None:
    launched = [plan for _, plan in searched(Blind(), 20).launched]
    assert sorted(plan.plan_id for plan in launched) == sorted(plan.plan_id for plan in small().grid())


def test_plans_like_those_that_failed_are_left_for_later() -> None:
    machine = Machine(lambda plan: None if plan["precision"] == "bf16" else (throughput(plan),))
    launched = [plan["precision"] for _, plan in searched(Told(), 6, machine).launched]
    assert launched[0] == "bf16"
    assert launched.count("fp32") >= 3


def test_a_plan_that_is_predicted_not_to_fit_is_refused_with_the_reason_and_never_launched() -> None:
    guide = Told(refused=lambda plan: "it is predicted to need too much" if plan["micro_batch_size"] == 4 else None)
    first = [Point(32, plan) for plan in small().grid()]
    machine = searched(guide, 20, first=first)
    assert {plan["micro_batch_size"] for _, plan in machine.launched} == {1, 2, 8, 16}
    assert {reason for _, _, reason in machine.refused} == {"it is predicted to need too much"}
    assert [r.evaluation.outcome for r in machine.store].count(Outcome.INFEASIBLE) == 2


def test_the_sampler_itself_asks_for_no_plan_that_is_predicted_not_to_fit() -> None:
    machine = searched(Told(refused=lambda plan: "no" if plan["micro_batch_size"] == 4 else None), 6)
    assert machine.refused == []


def test_a_search_begins_with_the_plan_predicted_best_of_each_way_of_using_each_strategy() -> None:
    spaces = Spaces(space())
    found = first_points(spaces, Told(), (-1.0,))
    shown = [point for point in found if spaces.why_not(point) is None]
    assert len(found) == len(set(found))
    assert {point.plan["data_parallel"] for point in shown} == {"ddp", "zero", "none"}
    assert any(point.plan["tp"] == 2 for point in shown)
    assert any(point.plan["pp"] == 2 for point in shown)
    assert throughput(shown[0].plan) == max(throughput(point.plan) for point in spaces.grid())
    assert spaces.showcases()[0] in found


def test_without_a_prediction_a_search_begins_with_the_showcases() -> None:
    spaces = Spaces(space())
    assert first_points(spaces, Blind(), (-1.0,)) == spaces.showcases()


def test_of_a_large_grid_some_points_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.search.spaces.MOST_CANDIDATES", 5)
    assert 1 <= len(Spaces(space()).candidates) <= 5


def test_a_killed_search_goes_on_without_trying_anything_twice() -> None:
    study, machine = optuna.create_study(direction="maximize"), Machine()
    for trials in (3, 6):
        run(study, small(), machine.evaluate, machine.refuse, Budget(trials=trials), sampler="guided", guide=Told())
    launched = [plan for _, plan in machine.launched]
    assert len(launched) == len(set(launched)) == 6


def test_two_objectives_are_weighed_anew_each_time() -> None:
    class Both(Told):
        def values(self, point: Point) -> tuple[float, ...] | None:
            return throughput(point.plan), float(point.plan["micro_batch_size"])

    study = optuna.create_study(directions=["maximize", "minimize"])
    machine = Machine(lambda plan: (throughput(plan), float(plan["micro_batch_size"])))
    run(study, small(), machine.evaluate, machine.refuse, Budget(trials=6), sampler="guided", guide=Both(), first=[])
    sizes = {plan["micro_batch_size"] for _, plan in machine.launched}
    assert len(machine.launched) == 6
    assert 1 in sizes


def test_a_sampler_of_no_space_left_draws_at_random() -> None:
    spaces, study = Spaces(small()), optuna.create_study(direction="maximize")
    sampler = GuidedSampler(spaces, Blind(), 0)
    machine = Machine()
    run(study, spaces, machine.evaluate, machine.refuse, Budget(trials=20), sampler="guided")
    assert sampler.next_point(study) is None
