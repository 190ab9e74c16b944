"""Running a night with launches that never happen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InputError, MeasurementError
from harness.nightly.findings import Verdict
from harness.nightly.history import CONFIRM, History
from harness.nightly.night import measurement
from harness.nightly.recipe_night import RecipeNight, plans
from harness.nightly.suite import Suite
from harness.plan import complete
from harness.trial.recorder import Launched, Result
from tests.tiny import gpt, knobs, plan

SUITE = Suite(
    name="team",
    plans={"one": {"dp": 2, "micro_batch_size": 1}, "two": {"dp": 2, "micro_batch_size": 2}},
    metrics=("step_time_s",),
    launches=3,
    sessions=6,
)


class FakeRunner:
    """Answers launches with made-up rows, and stops when it is told to. Its references always run."""

    rank_memory = None

    def __init__(self) -> None:
        self.launched: list[int] = []
        self.stop_after: int | None = None
        self.seconds = {1: 1.0, 2: 2.0}
        self.outcome = "ok"
        self.canaries = 0
        self.loss = 3.0
        self.seeds: list[int] = []
        self.referenced: list[int] = []

    def run(self, plan: Any, workload: Any, facts: Any, launched: Launched) -> Result:
        if self.stop_after is not None and len(self.launched) >= self.stop_after:
            raise KeyboardInterrupt
        size = int(plan["micro_batch_size"])
        self.launched.append(size)
        row = {"outcome": self.outcome, "outcome_reason": "exit status 1", "step_time_s": self.seconds[size]}
        row["loss_last"] = self.loss + 0.1 * workload.seed
        if workload.seed:
            self.seeds.append(workload.seed)
            assert workload.seed in self.referenced
        row = row if self.outcome == "ok" else {**row, "step_time_s": None}
        return Result(f"t{len(self.launched)}", {**row, "role": launched.role}, 1.0)

    def prepare(self, workload: Any) -> None:
        self.referenced.append(workload.seed)

    def twin(self, plan: Any, workload: Any) -> None:
        """There is none."""

    def columns(self, workload: Any, twin: None) -> dict[str, Any]:
        return {}

    def apart(self, plan: Any, workload: Any, facts: Any, target: Any, file: str) -> dict[str, float]:
        self.canaries += 1
        return {"product_s": 0.01, "copy_s": 0.02}


def night_run(tmp_path: Path, runner: FakeRunner, suite: Suite = SUITE, **options: Any) -> RecipeNight:
    workload = gpt()
    experiment: Any = SimpleNamespace(
        workloads={workload.global_batch_size: workload},
        facts=lambda workload, world=None: None,
        reference_plan=lambda workload: plan({"micro_batch_size": 1}),
        plan=lambda settings: complete({"data_parallel": "ddp", **settings}, knobs()),
    )
    history = History(tmp_path, suite.name, "hw")
    given: dict[str, Any] = {"environment": {"torch": "2.13"}, "runner": runner, "references": runner, **options}
    return RecipeNight(suite=suite, experiment=experiment, history=history, **given)


def test_plans_are_launched_in_turns_between_two_canaries(tmp_path: Path) -> None:
    runner = FakeRunner()
    tonight, findings = night_run(tmp_path, runner).run(())
    assert runner.launched == [1, 2, 2, 1, 1, 2]
    assert runner.canaries == 2
    assert tonight.complete
    assert {finding.verdict for finding in findings} == {Verdict.INSUFFICIENT}


def test_a_night_that_was_cut_short_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    first = FakeRunner()
    first.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        night_run(tmp_path, first).run(())
    (cut,) = History(tmp_path, "team", "hw").nights()
    assert not cut.complete
    second = FakeRunner()
    tonight, _ = night_run(tmp_path, second).run(())
    assert tonight.night == cut.night
    assert second.launched == [1, 2]
    session = tonight.screened()
    assert session is not None
    assert {name: len(trials) for name, trials in session.trials.items()} == {"one": 3, "two": 3}
    assert len(History(tmp_path, "team", "hw").nights()) == 1


def test_a_night_of_another_environment_is_not_taken_up(tmp_path: Path) -> None:
    first = FakeRunner()
    first.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        night_run(tmp_path, first).run(())
    second = FakeRunner()
    night_run(tmp_path, second, environment={"torch": "2.14"}).run(())
    assert len(second.launched) == 6
    assert len(History(tmp_path, "team", "hw").nights()) == 2


def test_two_runs_in_one_night_are_two_nights(tmp_path: Path) -> None:
    for _ in range(2):
        night_run(tmp_path, FakeRunner()).run(())
    assert len(History(tmp_path, "team", "hw").nights()) == 2


def test_a_suspect_is_measured_again_and_the_others_are_not(tmp_path: Path) -> None:
    for number in range(12):
        runner = FakeRunner()
        runner.seconds = {1: 1.0 + 0.001 * (number % 3), 2: 2.0 + 0.002 * (number % 4)}
        night_run(tmp_path, runner).run(())
    slow = FakeRunner()
    slow.seconds = {1: 1.2, 2: 2.001}
    tonight, findings = night_run(tmp_path, slow).run(())
    assert slow.launched[6:] == [1] * 18
    assert sum(session.purpose == CONFIRM for session in tonight.sessions) == 6
    assert {finding.plan: finding.verdict for finding in findings} == {"one": Verdict.CONFIRMED, "two": Verdict.PASS}


def test_the_deadline_ends_a_night_and_what_was_not_measured_is_said(tmp_path: Path) -> None:
    runner = FakeRunner()
    clock = iter(range(1000))
    tonight, findings = night_run(tmp_path, runner, seconds=2.0, clock=lambda: next(clock)).run(())
    assert len(runner.launched) < 6
    verdicts = {finding.plan: finding.verdict for finding in findings}
    assert Verdict.NOT_MEASURED in verdicts.values()
    assert tonight.complete


def test_a_plan_that_cannot_run_here_is_not_launched_and_not_green(tmp_path: Path) -> None:
    runner = FakeRunner()
    _, findings = night_run(tmp_path, runner, refused={"two": "it cannot run here: no"}).run(())
    assert set(runner.launched) == {1}
    found = {finding.plan: finding for finding in findings}
    assert (found["two"].verdict, found["two"].why) == (Verdict.NOT_MEASURED, "it cannot run here: no")


def test_a_launch_that_fails_is_told(tmp_path: Path) -> None:
    runner = FakeRunner()
    runner.outcome = "crash"
    _, findings = night_run(tmp_path, runner).run(())
    assert {finding.verdict for finding in findings} == {Verdict.NOT_MEASURED}
    assert findings[0].why == "a launch ended with crash: exit status 1"


def test_every_launch_has_as_many_steps() -> None:
    settings = measurement(SUITE)
    assert (settings.min_steps, settings.max_steps, settings.precision) == (16, 16, None)


def test_a_plan_that_this_version_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    suite = Suite(name="team", plans={"mine": {"micro_batch": 4}})
    job = night_run(tmp_path, FakeRunner())
    with pytest.raises(InputError, match="the plan 'mine' of the suite 'team': unknown knob 'micro_batch'"):
        plans(suite, job.experiment)


def nights_of_one_loss(tmp_path: Path) -> Suite:
    """A suite that has ten nights."""
    suite = replace(SUITE, metrics=("loss_last",))
    for _ in range(10):
        night_run(tmp_path, FakeRunner(), suite).run(())
    return suite


def test_under_new_versions_five_other_seeds_are_measured_once(tmp_path: Path) -> None:
    suite = nights_of_one_loss(tmp_path)
    first, second = FakeRunner(), FakeRunner()
    first.loss = second.loss = 3.05
    tonight, findings = night_run(tmp_path, first, suite, environment={"torch": "2.14"}).run(())
    assert first.seeds == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {finding.verdict for finding in findings} == {Verdict.PASS}
    assert "within the band of 5 other seeds" in findings[0].why
    assert [session.purpose for session in tonight.sessions] == ["screen", "seeds"]
    assert list(tonight.sessions[1].values["one"]) == ["loss_last"]
    _, findings = night_run(tmp_path, second, suite, environment={"torch": "2.14"}).run(())
    assert second.seeds == []
    assert {finding.verdict for finding in findings} == {Verdict.PASS}


def test_without_time_for_seeds_a_loss_is_only_suspected(tmp_path: Path) -> None:
    suite = nights_of_one_loss(tmp_path)
    runner = FakeRunner()
    runner.loss = 3.05
    # Enough for the night's own launches, and for one seed of each plan.
    job = night_run(tmp_path, runner, suite, environment={"torch": "2.14"}, seconds=9.0)
    job.clock = lambda: job.began + len(runner.launched) + 1.0
    _, findings = job.run(())
    assert runner.seeds == [1, 1]
    assert {finding.verdict for finding in findings} == {Verdict.SUSPECT}
    assert "1 of 5 other seeds" in findings[0].why


def test_seeds_whose_reference_does_not_run_leave_a_suspicion(tmp_path: Path) -> None:
    suite = nights_of_one_loss(tmp_path)
    runner = FakeRunner()
    runner.loss = 3.05

    def broken(*given: Any) -> float:
        raise MeasurementError("the fp32 reference ended with a crash")

    runner.prepare = broken  # type: ignore[method-assign]
    said: list[str] = []
    _, findings = night_run(tmp_path, runner, suite, environment={"torch": "2.14"}, say=said.append).run(())
    assert {finding.verdict for finding in findings} == {Verdict.SUSPECT}
    assert "warning: the fp32 reference ended with a crash" in said
