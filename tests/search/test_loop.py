from __future__ import annotations

import itertools
from collections import Counter

import optuna
import pytest

from harness.errors import InputError, UnknownNameError
from harness.search import samplers
from harness.search.evaluation import Budget, Evaluation, Event, Phase
from harness.search.loop import run
from harness.search.spaces import Spaces
from harness.store.records import Outcome
from tests.search.fake_machine import Clock, Machine, small, space, throughput


def memory_study(*directions: str) -> optuna.Study:
    return optuna.create_study(directions=list(directions) or ["maximize"])


def sweep(machine: Machine, searched=None, study=None, **options):
    budget = Budget(**{k: options.pop(k) for k in ("trials", "seconds") if k in options})
    chosen = searched if searched is not None else space()
    return run(
        study or memory_study(), chosen, machine.evaluate, machine.refuse, budget, clock=machine.clock, **options
    )


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_every_showcase_is_tried_before_the_search_begins(sampler: str) -> None:
    machine, searched = Machine(), space()
    events: list[Event] = []
    sweep(machine, searched, trials=12, sampler=sampler, on_event=events.append)
    shown = searched.showcases()
    assert [plan for _, plan in machine.launched[: len(shown)]] == shown
    begun = [e.phase for e in events if e.evaluation is None]
    assert begun == [Phase.SHOWCASE] * len(shown) + [begun[-1]] * (12 - len(shown))
    assert begun[-1] is (Phase.UNSEEN if sampler == "grid" else Phase.SEARCH)


def test_a_showcase_outside_the_space_is_tried_too() -> None:
    machine, searched = Machine(), space("precision", "ddp")
    outside = next(p for p in space("ddp", fixed={"precision": "fp16"}).grid())
    searched.showcases = lambda: [outside]
    study = memory_study()
    sweep(machine, searched, study, trials=8)
    assert machine.launched[0] == (16, outside)
    assert "precision" not in study.trials[0].params
    assert study.trials[0].params["bucket_mb"] == outside["bucket_mb"]


def test_throughput_is_maximised() -> None:
    machine = Machine()
    summary = sweep(machine, trials=60, seed=3)
    values = {plan: throughput(plan) for _, plan in machine.launched}
    assert values[summary.best[0]] == max(values.values())
    assert sum(list(values.values())[-20:]) / 20 > sum(list(values.values())[:20]) / 20


def test_memory_is_minimised() -> None:
    def memory(plan):
        return (float(plan["micro_batch_size"]),)

    machine = Machine(memory)
    summary = sweep(machine, study=memory_study("minimize"), trials=40)
    assert summary.best[0]["micro_batch_size"] == 1
    late = [plan["micro_batch_size"] for _, plan in machine.launched[-15:]]
    assert sum(late) / 15 < sum(plan["micro_batch_size"] for _, plan in machine.launched[:15]) / 15


def test_the_front_of_two_objectives_holds_every_trade_off() -> None:
    def values(plan):
        return (throughput(plan), float(plan["micro_batch_size"]))

    summary = sweep(Machine(values), small(), memory_study("maximize", "minimize"))
    assert {(p["precision"], p["micro_batch_size"]) for p in summary.best} == {("bf16", 1), ("bf16", 2), ("bf16", 4)}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "nsga2", "cmaes"])
def test_a_finite_space_is_tried_whole_and_no_plan_twice(sampler: str) -> None:
    machine = Machine()
    summary = sweep(machine, small(), sampler=sampler)
    assert len(machine.launched) == len(set(machine.launched)) == summary.launched == 10
    assert summary.stopped == "every plan of the space was tried"
    assert summary.best[0]["micro_batch_size"] == 4


def test_the_grid_of_a_space_with_ranges_ends_too() -> None:
    machine, searched = Machine(), space("ddp", global_batch_size=4)
    summary = sweep(machine, searched, sampler="grid")
    assert {plan for _, plan in machine.launched} == {*searched.showcases(), *searched.grid()}
    assert summary.stopped == "every plan of the grid was tried"


def test_a_repeated_plan_is_told_its_first_values_without_a_launch() -> None:
    machine, study = Machine(), memory_study()
    summary = sweep(machine, small(), study, sampler="random")
    again = [t for t in study.trials if "repeats" in t.user_attrs]
    first = {t.user_attrs["trial_id"]: t for t in study.trials if "repeats" not in t.user_attrs}
    assert len(again) == summary.repeated > 0
    assert all(t.values == first[t.user_attrs["repeats"]].values for t in again)


def test_a_sampler_that_only_repeats_itself_soon_loses_its_turn() -> None:
    class Stubborn(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low

    machine = Machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, "build", lambda *args, **kwargs: Stubborn())
        summary = sweep(machine, space("ddp"), trials=60)
    assert len(set(machine.launched)) == 60
    assert 30 < summary.repeated < 2 * 60


def test_a_failed_plan_is_not_launched_again() -> None:
    machine = Machine(lambda plan: None if plan["precision"] == "bf16" else (1.0,))
    summary = sweep(machine, small())
    assert len(machine.launched) == len(set(machine.launched)) == 10
    assert [evaluation.reason for _, evaluation in summary.failures] == ["rank 1 raised ValueError"] * 5
    assert summary.outcomes == {Outcome.OK: 5, Outcome.CRASH: 5}


def test_a_refused_plan_is_recorded_once_and_costs_no_launch() -> None:
    machine, study = Machine(), memory_study()
    searched = space("ddp", "tensor", "precision", global_batch_size=2, fixed={"bucket_mb": 25.0})
    summary = sweep(machine, searched, study, sampler="random")
    assert [(plan["tp"], reason) for _, plan, reason in machine.refused] == [
        (2, "bf16 is not for tensor parallelism here")
    ] * 2
    assert len({plan for _, plan, _ in machine.refused}) == 2
    assert summary.outcomes[Outcome.INFEASIBLE] == 2
    assert summary.launched == len(machine.launched) == len(list(searched.grid()))
    assert {t.state.name for t in study.trials if t.user_attrs["outcome"] == "infeasible"} == {"PRUNED"}


def test_a_sweep_in_which_every_trial_fails_ends_with_the_reasons() -> None:
    machine = Machine(lambda plan: None)
    summary = sweep(machine, trials=9)
    assert (summary.launched, summary.best, summary.interrupted) == (9, (), False)
    assert len(summary.failures) == sum(summary.outcomes.values())
    assert all(evaluation.reason for _, evaluation in summary.failures)


def test_a_budget_of_trials_stops_the_sweep() -> None:
    machine = Machine()
    summary = sweep(machine, trials=5)
    assert len(machine.launched) == 5
    assert summary.stopped == "the budget of 5 trials is spent"
    assert summary.untried == tuple(space().showcases()[5:])


def test_a_budget_of_time_stops_when_a_usual_trial_no_longer_fits() -> None:
    machine = Machine(clock=Clock(), trial_s=10.0)
    summary = sweep(machine, seconds=39.0)
    assert len(machine.launched) == 3
    assert "spent but for 9.0 s, less than the 10.0 s a trial usually takes" in summary.stopped


def test_one_slow_trial_does_not_make_the_next_look_slow() -> None:
    clock, durations = Clock(), itertools.chain([1.0, 1.0, 50.0], itertools.repeat(1.0))
    machine = Machine(clock=clock)
    machine.trial_s = 0.0

    def values(plan):
        clock.now_s += next(durations)
        return (throughput(plan),)

    machine.values = values
    sweep(machine, seconds=60.0)
    assert len(machine.launched) == 3 + 8


def test_no_time_launches_nothing() -> None:
    machine = Machine()
    assert sweep(machine, seconds=0).stopped == "the time budget is spent"
    assert machine.launched == []


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="trials >= 0 must hold, but got trials=-1"):
        Budget(trials=-1)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite number"):
        Evaluation(trial_id="x", outcome=Outcome.OK, values=(float("nan"),))


def test_an_error_of_the_harness_itself_is_not_swallowed() -> None:
    def broken(plan):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(Machine(broken), trials=3)


def test_an_unknown_sampler_starts_nothing() -> None:
    machine, study = Machine(), memory_study()
    with pytest.raises(UnknownNameError):
        sweep(machine, study=study, sampler="bayes")
    assert (machine.launched, study.trials) == ([], [])


def test_several_global_batches_are_tried_each_under_its_own_ticket() -> None:
    both = {size: space("ddp", "tensor", "precision", global_batch_size=size) for size in (8, 3)}
    machine, study = Machine(), memory_study()
    sweep(machine, both, study, trials=25)
    assert {size for size, _ in machine.launched} == {8, 3}
    assert all(size % plan["dp"] == 0 for size, plan in machine.launched)
    assert {t.params["global_batch_size"] for t in study.trials} == {8, 3}


def test_batch_sizes_whose_values_do_not_compare_are_searched_in_turns() -> None:
    both = {size: space("ddp", "tensor", "precision", global_batch_size=size) for size in (8, 32)}
    machine, study = Machine(), memory_study()
    sweep(machine, Spaces(both, compared=False), study, trials=24)
    counts = Counter(size for size, _ in machine.launched)
    assert min(counts.values()) >= 9
    shared = [set(t.params) for t in study.trials if t.params]
    small = set().union(*(names for names in shared if "layout.batch8" in names))
    large = set().union(*(names for names in shared if "layout.batch32" in names))
    assert small & large == {"global_batch_size"}


def test_another_space_under_the_same_name_is_refused() -> None:
    study = memory_study()
    sweep(Machine(), space("ddp"), study, trials=1)
    with pytest.raises(InputError, match=r"was begun with strategies = .*'ddp'.*; resume it with the same options"):
        sweep(Machine(), space("ddp", "zero"), study, trials=1)
    with pytest.raises(InputError, match="global_batch_size = 16, but now global_batch_size = 8"):
        sweep(Machine(), space("ddp", global_batch_size=8), study, trials=1)
