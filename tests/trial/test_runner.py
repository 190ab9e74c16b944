from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from harness.errors import MeasurementError
from harness.store.records import Outcome
from harness.store.store import Store
from harness.trial import recorder as module
from harness.trial.numerics import Curve
from harness.trial.recorder import Launched, new_trial_id
from harness.trial.runner import Runner
from tests.tiny import facts, gpt, plan
from tests.trial.fake_ranks import Clock, FakeLauncher, FakeRanks, error, step, whole

WORKLOAD = gpt()
PLAN = plan({"dp": 2, "micro_batch_size": 2})
ALONE = plan({"micro_batch_size": 8})


def runner(folder: Path, play: Callable[[FakeRanks], None], **fields: Any) -> Runner:
    return Runner(
        launcher=FakeLauncher(Clock(), play), store=Store(folder), hardware_id="hw", sweep="s", cores=2, **fields
    )


def sound(ranks: FakeRanks) -> None:
    """Every rank does all it should at once."""
    for rank in ranks.running:
        ranks.write(rank, *whole())
        ranks.end(rank)


def test_a_trial_is_recorded_with_its_steps_and_leaves_no_folder(tmp_path: Path) -> None:
    folders: list[Path] = []

    def play(ranks: FakeRanks) -> None:
        folders.append(ranks.job.folder)
        sound(ranks)

    made = runner(tmp_path, play)
    result = made.run(PLAN, WORKLOAD, facts(WORKLOAD, 2), Launched(study_trial=4))
    trials, steps = made.store.trials(), made.store.steps()
    assert (result.outcome, result.row["numerics"]) == (Outcome.OK, "skipped")
    assert trials[["trial_id", "plan_id", "outcome", "study_trial"]].to_numpy().tolist() == [
        [result.trial_id, PLAN.plan_id, "ok", 4]
    ]
    assert len(steps) == 16
    assert result.training_s == pytest.approx(4.0)
    assert [folder.exists() for folder in folders] == [False]


def test_the_cores_are_shared_among_the_ranks(tmp_path: Path) -> None:
    threads: list[int] = []

    def play(ranks: FakeRanks) -> None:
        threads.append(ranks.job.threads)
        sound(ranks)

    made = runner(tmp_path, play)
    for chosen in (ALONE, PLAN, plan({"dp": 4, "micro_batch_size": 2})):
        made.run(chosen, WORKLOAD, facts(WORKLOAD, chosen.world_size))
    assert threads == [2, 1, 1]


def test_a_refused_plan_is_recorded_with_its_reason_and_not_launched(tmp_path: Path) -> None:
    made = runner(tmp_path, sound)
    row = made.refuse(PLAN, WORKLOAD, "because", study_trial=0).row
    assert (row["outcome"], row["outcome_reason"], row["numerics"]) == ("infeasible", "because", "skipped")
    assert list(made.store.trials()["outcome"]) == ["infeasible"]
    assert not hasattr(made.launcher, "started")


def test_an_interrupted_trial_is_recorded_and_the_interrupt_passed_on(tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        raise KeyboardInterrupt

    made = runner(tmp_path, play)
    with pytest.raises(KeyboardInterrupt):
        made.run(PLAN, WORKLOAD, facts(WORKLOAD, 2))
    assert list(made.store.trials()["outcome"]) == ["interrupted"]


def test_a_failed_trial_has_every_column_that_was_reached(tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(0, *whole()[:4], error(9.0))
        for rank in (0, 1):
            ranks.end(rank, 1 - rank)

    row = runner(tmp_path, play).run(PLAN, WORKLOAD, facts(WORKLOAD, 2)).row
    assert (row["outcome"], row["loss_first"], row.get("step_time_s")) == ("crash", 4.0, None)


@pytest.mark.parametrize(("loss", "outcome", "numerics"), [(4.0, "ok", "pass"), (4.1, "numerics", "fail")])
def test_the_first_steps_are_compared_with_the_reference(
    loss: float, outcome: str, numerics: str, tmp_path: Path
) -> None:
    reference = {WORKLOAD.workload_id: Curve([loss] * 4, [1.0] * 4)}
    row = runner(tmp_path, sound, references=reference).run(PLAN, WORKLOAD, facts(WORKLOAD, 2)).row
    assert (row["outcome"], row["numerics"]) == (outcome, numerics)


def test_a_failure_is_not_covered_by_its_numerics(tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        for rank in (0, 1):
            ranks.write(rank, *[step(n, float(n), loss=9.0) for n in range(4)], error(9.0))
            ranks.end(rank, 1)

    reference = {WORKLOAD.workload_id: Curve([4.0] * 4, [1.0] * 4)}
    row = runner(tmp_path, play, references=reference).run(PLAN, WORKLOAD, facts(WORKLOAD, 2)).row
    assert (row["outcome"], row["numerics"]) == ("crash", "fail")


# -- the reference


def test_a_reference_is_recorded_and_not_run_again(tmp_path: Path) -> None:
    runner(tmp_path, sound).reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 8)

    def never(ranks: FakeRanks) -> None:
        raise AssertionError("it was recorded")

    again = runner(tmp_path, never)
    assert again.reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 8) == 0.0
    assert again.references[WORKLOAD.workload_id] == Curve([4.0] * 8, [1.0] * 8)
    assert len(again.store.trials()) == 0


def test_a_reference_that_is_too_short_is_run_again(tmp_path: Path) -> None:
    made = runner(tmp_path, sound)
    made.reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 8)
    assert made.reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 9) > 0.0


def test_a_reference_that_fails_says_how(tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.end(0, 3)

    with pytest.raises(MeasurementError, match="fp32 reference of tiny on one process ended with crash: rank 0 ended"):
        runner(tmp_path, play).reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 8)


# -- limits and names


@pytest.mark.parametrize(("limit", "outcome"), [(None, "ok"), (1000, "ok"), (999, "oom_host")])
def test_a_peak_above_the_limit_did_not_fit(limit: int | None, outcome: str, tmp_path: Path) -> None:
    row = runner(tmp_path, sound, memory_limit=limit).run(PLAN, WORKLOAD, facts(WORKLOAD, 2)).row
    assert row["outcome"] == outcome
    assert limit != 999 or row["outcome_reason"] == "the worst rank held 1000 B where the memory limit is 999 B"


def test_the_time_to_a_loss_is_that_of_the_references_steps(tmp_path: Path) -> None:
    made = runner(tmp_path, sound, steps_to_loss={WORKLOAD.workload_id: 30})
    row = made.run(PLAN, WORKLOAD, facts(WORKLOAD, 2)).row
    assert row["time_to_loss_s"] == pytest.approx(30 * row["step_time_s"])


def test_a_clock_that_jumps_back_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping(datetime):
        hours = 9

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            cls.hours -= 1
            return datetime(2026, 1, 1, cls.hours, tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Jumping)
    made = runner(tmp_path, sound)
    results = [made.run(PLAN, WORKLOAD, facts(WORKLOAD, 2), Launched(study_trial=number)) for number in range(3)]
    trials = made.store.trials().sort_values("study_trial")
    assert list(trials["trial_id"]) == [result.trial_id for result in results]
    assert [result.training_s for result in results] == pytest.approx([4.0] * 3)


def test_trials_have_names_of_their_own_that_sort_by_time() -> None:
    ids = [new_trial_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert [name.partition("-")[0] for name in ids] == sorted(name.partition("-")[0] for name in ids)


@pytest.mark.parametrize(("rule", "anew"), [("this", False), ("an earlier one", True), (None, True)])
def test_a_reference_of_other_initial_values_is_made_anew(rule: str | None, anew: bool, tmp_path: Path) -> None:
    launched = []

    def play(ranks: FakeRanks) -> None:
        launched.append(ranks.job)
        for rank in ranks.running:
            ranks.write(rank, *whole())
            ranks.end(rank)

    made = runner(tmp_path, play)
    row = {"loss": 1.0, "grad_norm": 1.0, "step_time_s": 0.1, "arithmetic": "fp32 without TF32, cuda, torch 2.13"}
    kept = {"initial_values": WORKLOAD.initial_values if rule == "this" else rule}
    made.store.write_reference(WORKLOAD.workload_id, [{"step": step, **row, **kept} for step in range(4)])
    made.reference(ALONE, WORKLOAD, facts(WORKLOAD, 1), 4)
    assert bool(launched) == anew
    recorded = made.store.reference(WORKLOAD.workload_id)
    assert recorded is not None
    assert set(recorded["initial_values"]) == {WORKLOAD.initial_values}
    # Made anew here, they say in which arithmetic.
    assert (
        recorded["arithmetic"]
        .str.startswith("fp32 without TF32, cpu, torch" if anew else "fp32 without TF32, cuda")
        .all()
    )
