"""What a sweep launches, with trials that never ran."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.machine import hardware
from harness.plan import Plan
from harness.search.evaluation import Ticket
from harness.store.records import Role
from harness.store.standings import standings
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment
from harness.sweeps.finals import MOST_ROUNDS
from harness.sweeps.launches import MOST_FUTILE, FinalLaunch, Launches
from harness.trial.recorder import Launched, Result
from tests.tiny import gpt, plan

A, B, C, D = (plan({"dp": 2, "micro_batch_size": size}) for size in (1, 2, 4, 8))
NOISY = "other processes took 40% of the usable cores' time"


class FakeRunner:
    """Records what it is asked to run and answers with made-up rows."""

    def __init__(self, rates: dict[Plan, float], disturbed: list[str | None] | None = None) -> None:
        self.rates, self.disturbed = rates, disturbed or []
        self.rows: list[dict[str, Any]] = []
        self.rivals: list[float | None] = []
        self.beside: list[Any] = []
        self.profiled: list[Plan] = []
        self.luck: list[float] = []
        self.columns: dict[str, Any] = {}

    def profile(self, plan: Plan, workload: Any, facts: Any) -> tuple[dict[str, Any], float]:
        self.profiled.append(plan)
        return {"comm_s": 1.0}, 0.5

    def run(
        self,
        plan: Plan,
        workload: Any,
        facts: Any,
        launched: Launched,
    ) -> Result:
        rate = self.rates[plan] * (self.luck.pop(0) if self.luck else 1.0)
        self.beside.append(launched.beside)
        self.rivals.append(launched.rival_step_time_s)
        row = {
            "trial_id": f"t{len(self.rows)}",
            "plan_id": plan.plan_id,
            "workload_id": workload.workload_id,
            "global_batch_size": workload.global_batch_size,
            "seq_len": 32,
            "knobs": plan.to_json(),
            "outcome": "ok",
            "outcome_reason": None,
            "role": launched.role,
            "round": launched.round,
            "study_trial": launched.study_trial,
            "tokens_per_s": rate,
            "tokens_per_s_low": 0.99 * rate,
            "tokens_per_s_high": 1.01 * rate,
            "step_time_s": workload.tokens_per_step / rate,
            "time_to_loss_s": None,
            "peak_memory_bytes": 100,
            "disturbed": self.disturbed.pop(0) if self.disturbed else None,
            **self.columns,
        }
        self.rows.append(row)
        return Result(str(row["trial_id"]), row, 1.0)


@dataclass(frozen=True, kw_only=True)
class Limited(Experiment):
    """With a ceiling of its own."""

    ceiling: int | None

    @property
    def memory_ceiling_bytes(self) -> int | None:
        return self.ceiling


def launches(runner: FakeRunner, ceiling: int | None = None, **options: Any) -> Launches:
    workload = gpt()
    experiment = Limited(
        ceiling=ceiling,
        config=SweepConfig(results=Path("unused"), **options),
        hardware=hardware.detect(),
        world_size=2,
        workloads={workload.global_batch_size: workload},
        strategies=(),
        fixed={},
    )
    made = Launches(experiment=experiment)
    made.runner = runner  # type: ignore[assignment]
    return made


def ticket(number: int) -> Ticket:
    return Ticket(number, gpt().global_batch_size)


def searched(made: Launches, *plans: Plan) -> None:
    for number, tried in enumerate(plans):
        made.evaluate(tried, ticket(number))


def test_a_disturbed_trial_is_repeated_once_and_the_repetition_counts() -> None:
    runner = FakeRunner({A: 100.0}, [NOISY, None])
    evaluation = launches(runner).evaluate(A, ticket(0))
    assert [row["role"] for row in runner.rows] == [Role.SEARCH, Role.AGAIN]
    assert evaluation.trial_id == "t1"


def test_on_a_machine_that_is_always_busy_repeating_is_given_up() -> None:
    runner = FakeRunner(dict.fromkeys((A, B, C, D), 100.0), [NOISY] * 20)
    made = launches(runner)
    searched(made, A, B, C, D, A, B)
    assert Counter(row["role"] for row in runner.rows) == {Role.SEARCH: 6, Role.AGAIN: MOST_FUTILE}


def test_the_rival_of_a_plan_is_the_slow_end_of_the_best_one_so_far() -> None:
    runner = FakeRunner({A: 100.0, B: 200.0, C: 50.0})
    searched(launches(runner), A, B, C)
    tokens = gpt().tokens_per_step
    assert runner.rivals == [None, pytest.approx(tokens / 99.0), pytest.approx(tokens / 198.0)]


def test_plans_that_show_a_strategy_are_not_raced() -> None:
    runner = FakeRunner({A: 200.0, B: 100.0})
    made = launches(runner)
    made.showcases = frozenset({(gpt().global_batch_size, B)})
    searched(made, A, B)
    assert runner.rivals == [None, None]


@pytest.mark.parametrize("options", [{"racing": False}, {"objective": "memory"}, {"objective": "pareto"}])
def test_nothing_is_raced_where_a_slower_plan_may_win_or_the_user_says_so(options: dict[str, Any]) -> None:
    runner = FakeRunner({A: 200.0, B: 100.0})
    searched(launches(runner, **options), A, B)
    assert runner.rivals == [None, None]


def test_a_plan_without_the_headroom_cannot_win_and_is_no_rival() -> None:
    runner = FakeRunner({A: 200.0, B: 100.0})
    made = launches(runner, ceiling=99)
    evaluation = made.evaluate(A, ticket(0))
    assert (evaluation.values, evaluation.reason) == (None, "it leaves less than the headroom asked for")
    searched(made, B)
    assert runner.rivals == [None, None]


def test_the_best_plans_are_launched_again_in_turns() -> None:
    runner = FakeRunner({A: 100.0, B: 200.0, C: 150.0, D: 50.0})
    made = launches(runner, finalists=2, relaunches=3)
    searched(made, A, B, C, D)
    assert made.run_finals(runner.rows, lambda launch: None) is None
    finals = [row["plan_id"] for row in runner.rows if row["role"] == Role.FINAL]
    assert finals == [B.plan_id, C.plan_id, C.plan_id, B.plan_id, B.plan_id, C.plan_id]
    assert [row["round"] for row in runner.rows if row["role"] == Role.FINAL] == [1, 1, 2, 2, 3, 3]


def test_each_finalist_is_profiled_once_in_a_launch_of_its_own() -> None:
    runner = FakeRunner({A: 100.0, B: 200.0})
    made = launches(runner, finalists=2, relaunches=3)
    searched(made, A, B)
    made.run_finals(list(runner.rows), lambda launch: None)
    assert runner.profiled == [B, A]
    assert [beside.get("comm_s") for beside in runner.beside] == [None] * 2 + [1.0] * 6


def test_a_resumed_sweep_launches_only_the_finals_that_are_missing() -> None:
    runner = FakeRunner({A: 100.0, B: 200.0})
    made = launches(runner, finalists=2, relaunches=2)
    searched(made, A, B)
    made.run_finals(runner.rows, lambda launch: None)
    del runner.rows[-1]  # of the second round, which goes from the last to the first
    told: list[FinalLaunch] = []
    made.run_finals(list(runner.rows), told.append)
    assert [(f.plan, f.round) for f in told] == [(B, 2)]


def test_finals_end_with_the_time() -> None:
    runner = FakeRunner({A: 100.0, B: 200.0})
    made = launches(runner, finalists=2, relaunches=2)
    searched(made, A, B)
    made.may_go_on = lambda seconds: len(runner.rows) < 3
    assert made.run_finals(list(runner.rows), lambda launch: None) == "no time for 1 launches of round 1"
    assert len(runner.rows) == 3


def test_without_relaunches_there_are_no_finals() -> None:
    runner = FakeRunner({A: 100.0})
    made = launches(runner, relaunches=0)
    searched(made, A)
    assert made.run_finals(list(runner.rows), lambda launch: None) is None
    assert [row["role"] for row in runner.rows] == [Role.SEARCH]


def uneven(runner: FakeRunner, *factors: float) -> None:
    """Let launches be faster or slower in turn."""
    runner.luck = list(factors)


def test_finalists_are_launched_on_until_a_difference_as_small_as_was_asked_for_would_show() -> None:
    runner = FakeRunner({A: 100.0, B: 101.0})
    made = launches(runner, finalists=2, relaunches=3, resolution="5%")
    searched(made, A, B)
    uneven(runner, *[1.0, 1.04, 0.97, 1.02, 1.0, 0.98] + [1.0] * 100)
    made.run_finals(list(runner.rows), lambda launch: None)
    rounds = max(row["round"] for row in runner.rows if row["role"] == Role.FINAL)
    known = standings([row for row in runner.rows if row["workload_id"] == gpt().workload_id])
    assert 3 < rounds < MOST_ROUNDS
    assert known.smallest_difference is not None
    assert known.smallest_difference <= 0.05


def test_finals_end_when_more_rounds_would_not_help_and_say_so() -> None:
    runner = FakeRunner({A: 100.0, B: 101.0})
    made = launches(runner, finalists=2, relaunches=3)
    searched(made, A, B)
    uneven(runner, *[1.0, 1.5, 0.5, 1.2] * 20)
    why = made.run_finals(list(runner.rows), lambda launch: None)
    assert max(row["round"] for row in runner.rows if row["role"] == Role.FINAL) == 3
    assert why is not None
    assert "a difference of 5 % would take" in why


@pytest.mark.parametrize(
    ("options", "rounds"),
    [({}, 2), ({"relaunches": 3}, 3), ({"relaunches": 2, "resolution": "1%"}, 3), ({"resolution": "1%"}, 3)],
)
def test_finals_take_no_longer_than_the_search_unless_asked_to(options: dict[str, Any], rounds: int) -> None:
    runner = FakeRunner({A: 100.0, B: 101.0, C: 50.0, D: 40.0})
    runner.columns = {"measure_s": 10.0}
    made = launches(runner, finalists=2, **options)
    searched(made, A, B, C, D, D)
    uneven(runner, *[1.0, 1.01, 1.03, 1.0, 1.01, 1.0, 1.01, 1.0])
    why = made.run_finals(list(runner.rows), lambda launch: None)
    assert max(row["round"] for row in runner.rows if row["role"] == Role.FINAL) >= rounds
    assert (len(runner.rows) > 5 + 4) == bool(options)
    limited = why is not None and "longer than the search; --relaunches or --resolution asks for it" in why
    assert limited == ("resolution" not in options)


def test_memory_is_decided_without_further_rounds() -> None:
    runner = FakeRunner({A: 100.0, B: 101.0})
    made = launches(runner, finalists=2, relaunches=3, objective="memory")
    searched(made, A, B)
    uneven(runner, *[1.0, 1.5, 0.5, 1.2] * 20)
    made.run_finals(list(runner.rows), lambda launch: None)
    assert max(row["round"] for row in runner.rows if row["role"] == Role.FINAL) == 3


def test_one_finalist_leaves_nothing_open() -> None:
    runner = FakeRunner({A: 100.0})
    runner.columns = {"measure_s": 10.0}
    made = launches(runner, finalists=1)
    searched(made, A)
    assert made.run_finals(list(runner.rows), lambda launch: None) is None


def test_a_decided_sweep_that_is_resumed_stays_decided() -> None:
    runner = FakeRunner({A: 100.0, B: 50.0})
    runner.columns = {"measure_s": 10.0}
    made = launches(runner, finalists=2, relaunches=3)
    searched(made, A, B)
    uneven(runner, *[1.0, 1.001, 0.999, 1.0, 1.001, 1.0])
    assert made.run_finals(list(runner.rows), lambda launch: None) is None
    again = launches(runner, finalists=2)
    assert again.run_finals(list(runner.rows), lambda launch: None) is None
    assert len(runner.rows) == 8
