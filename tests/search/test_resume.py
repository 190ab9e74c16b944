from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from harness.errors import InputError
from harness.plan import Plan
from harness.search.evaluation import Budget, Evaluation, Recorded, Ticket
from harness.search.loop import ATTEMPTS, run
from harness.search.study import open_study
from harness.store.records import Outcome
from tests.search.fake_machine import Machine, small, space


def sweep(path: Path, machine: Machine, trials: int, searched=None, recorded=()):
    study = open_study(path / "s.log", "s", ["maximize"])
    return run(study, searched or space(), machine.evaluate, machine.refuse, Budget(trials=trials), recorded=recorded)


def trials_of(path: Path) -> list[optuna.trial.FrozenTrial]:
    return open_study(path / "s.log", "s", ["maximize"]).trials


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("at", [1, 4, 12])
def test_resuming_after_an_interruption_loses_nothing_and_repeats_nothing(
    tmp_path: Path, recorded: bool, at: int
) -> None:
    first = Machine(interrupt_at=at, recorded=recorded)
    cut = sweep(tmp_path, first, 20)
    assert (cut.interrupted, cut.stopped) == (True, "it was interrupted")
    second = Machine()
    summary = sweep(tmp_path, second, 20, recorded=first.store)
    settled = [record.plan for record in first.store + second.store if record.evaluation.launched]
    assert len(settled) == len(set(settled)) == summary.launched_in_all == 20
    assert (first.launched[-1] in second.launched) is not recorded
    states = {trial.state for trial in trials_of(tmp_path)}
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING not in states


def test_a_recorded_trial_that_a_kill_left_running_keeps_its_number(tmp_path: Path) -> None:
    first = Machine(interrupt_at=3, recorded=True)
    sweep(tmp_path, first, 9)
    sweep(tmp_path, Machine(), 3, recorded=first.store)
    record = first.store[-1]
    trial = trials_of(tmp_path)[record.ticket.number]
    assert (trial.state, tuple(trial.values)) == (TrialState.COMPLETE, record.evaluation.values)
    assert trial.user_attrs["trial_id"] == record.evaluation.trial_id


def test_an_unrecorded_trial_fails_with_a_reason_and_is_the_next_to_be_tried(tmp_path: Path) -> None:
    first, second = Machine(interrupt_at=10), Machine()
    sweep(tmp_path, first, 20)
    sweep(tmp_path, second, 10, recorded=first.store)
    assert second.launched == [first.launched[-1]]
    failed = [trial for trial in trials_of(tmp_path) if trial.state is TrialState.FAIL]
    assert [trial.user_attrs["reason"] for trial in failed] == ["the sweep was killed while this trial ran"]


def test_a_trial_recorded_as_interrupted_is_tried_again(tmp_path: Path) -> None:
    first = Machine(interrupt_at=2)
    sweep(tmp_path, first, 5)
    cut = Evaluation(trial_id="cut", outcome=Outcome.INTERRUPTED, values=None, reason="Ctrl-C")
    number = next(t.number for t in trials_of(tmp_path) if t.state is TrialState.RUNNING)
    ticket = Ticket(number, 16)
    second = Machine()
    sweep(tmp_path, second, 8, recorded=[*first.store, Recorded(first.launched[-1][1], ticket, cut)])
    assert first.launched[-1] in second.launched


class Preempted(Machine):
    """A machine that is taken away, so many times, whenever the plan runs that is the second to be tried."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.taken: list[Plan] = []

    def evaluate(self, plan: Plan, ticket: Ticket) -> Evaluation:
        chosen = plan in self.taken if self.taken else len(self.launched) == 1
        if not chosen or len(self.taken) == self.times:
            return super().evaluate(plan, ticket)
        self.taken.append(plan)
        self.clock.now_s += self.trial_s
        return Evaluation(trial_id="gone", outcome=Outcome.PREEMPTED, values=None, reason="SIGTERM")


def test_an_interrupted_evaluation_ends_the_run_and_is_tried_again(tmp_path: Path) -> None:
    first = Machine()
    settle = first.evaluate

    def interrupted(plan, ticket):
        if len(first.launched) == 2:
            return Evaluation(trial_id="gone", outcome=Outcome.INTERRUPTED, values=None, reason="Ctrl-C")
        return settle(plan, ticket)

    first.evaluate = interrupted
    cut = sweep(tmp_path, first, 9)
    assert (cut.interrupted, cut.launched) == (True, 2)
    second = Machine()
    assert sweep(tmp_path, second, 9).launched_in_all == 9
    assert cut.untried[-1] in [plan for _, plan in second.launched]


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
def test_a_preempted_plan_is_tried_again_in_the_same_run(times: int, tmp_path: Path) -> None:
    machine = Preempted(times)
    summary = sweep(tmp_path, machine, 99, small())
    assert (len(machine.taken), summary.interrupted, summary.launched) == (times, False, 10)
    assert machine.launched[1][1] == machine.taken[0]  # before any other plan
    assert summary.outcomes == {Outcome.OK: 10, Outcome.PREEMPTED: times}
    assert summary.stopped == "every plan of the space was tried"


def test_a_plan_that_is_always_preempted_is_given_up_and_the_sweep_goes_on(tmp_path: Path) -> None:
    machine = Preempted(99)
    summary = sweep(tmp_path, machine, 99, small())
    assert (len(machine.taken), len(machine.launched), summary.launched) == (ATTEMPTS, 9, 10)
    again = Machine()
    assert sweep(tmp_path, again, 99, small()).launched_in_all == 10
    assert again.launched == []


def test_a_preempted_plan_for_which_no_time_is_left_is_tried_by_the_next_run(tmp_path: Path) -> None:
    first, study = Preempted(1), open_study(tmp_path / "s.log", "s", ["maximize"])
    cut = run(study, space(), first.evaluate, first.refuse, Budget(seconds=25.0), clock=first.clock)
    assert len(first.launched) == len(first.taken) == 1
    assert first.taken[0] in cut.untried
    second = Machine()
    sweep(tmp_path, second, 9)
    assert first.taken[0] in [plan for _, plan in second.launched]


def test_trials_of_earlier_runs_count_against_the_budget(tmp_path: Path) -> None:
    sweep(tmp_path, Machine(), 8)
    second = Machine()
    summary = sweep(tmp_path, second, 8)
    assert (second.launched, summary.launched, summary.launched_in_all) == ([], 0, 8)


def test_what_a_lost_journal_knew_is_taken_from_the_store_once(tmp_path: Path) -> None:
    first = Machine()
    sweep(tmp_path, first, 15)
    (tmp_path / "s.log").unlink()
    for _ in range(2):
        again = Machine()
        sweep(tmp_path, again, 15, recorded=first.store)
        assert again.launched == []
    assert len(trials_of(tmp_path)) == len(first.store)


def test_resuming_a_finished_finite_space_launches_nothing(tmp_path: Path) -> None:
    sweep(tmp_path, Machine(), 99, small())
    again = Machine()
    assert sweep(tmp_path, again, 99, small()).stopped == "every plan of the space was tried"
    assert again.launched == []


def test_a_plan_refused_for_want_of_something_is_tried_once_it_is_there(tmp_path: Path) -> None:
    first, searched = Machine(), space("ddp", "precision")
    searched.why_not = lambda plan: "no bf16 on this machine" if plan["precision"] == "bf16" else None
    sweep(tmp_path, first, 3, searched)
    assert first.refused
    second = Machine()
    sweep(tmp_path, second, 4, space("ddp", "precision"))
    assert second.launched == [(16, first.refused[0][1])]


def test_a_resumed_random_search_does_not_draw_the_same_numbers(tmp_path: Path) -> None:
    study = open_study(tmp_path / "s.log", "s", ["maximize"])
    machine = Machine()
    for trials in (12, 24):
        run(study, space("ddp"), machine.evaluate, machine.refuse, Budget(trials=trials), sampler="random")
    assert not [trial for trial in study.trials if "repeats" in trial.user_attrs]


def begun_with(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what the study says its space was."""
    study = open_study(path / "s.log", "s", ["maximize"])
    begun = study.user_attrs["space"]
    study.set_user_attr("space", {size: change(dict(knobs)) for size, knobs in begun.items()})


def test_a_knob_that_came_later_does_not_stop_a_resumed_sweep(tmp_path: Path) -> None:
    first, second = Machine(), Machine()
    fixed = space(fixed={"overlap": True})  # its default
    sweep(tmp_path, first, 5, fixed)
    begun_with(tmp_path, lambda knobs: {name: domain for name, domain in knobs.items() if name != "overlap"})
    sweep(tmp_path, second, 8, fixed, recorded=first.store)
    assert len(second.launched) == 3


def test_a_knob_of_a_package_that_is_gone_does_not_either(tmp_path: Path) -> None:
    first, second = Machine(), Machine()
    sweep(tmp_path, first, 5)
    begun_with(tmp_path, lambda knobs: {**knobs, "mine": "False"})
    sweep(tmp_path, second, 8, recorded=first.store)
    assert len(second.launched) == 3


def test_a_knob_that_was_searched_then_and_is_not_now_is_named(tmp_path: Path) -> None:
    first = Machine()
    sweep(tmp_path, first, 5)
    begun_with(tmp_path, lambda knobs: {**knobs, "mine": "False, True"})
    with pytest.raises(InputError, match="was begun with mine = False, True"):
        sweep(tmp_path, Machine(), 3, recorded=first.store)
