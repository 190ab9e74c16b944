"""Real ranks whose workload goes wrong: what is recorded of them. Every other fault is in tests/faults."""

from __future__ import annotations

from harness.store.records import Outcome
from tests.tiny import Laboratory
from tests.trial.faulty import faulty

PLAN = {"dp": 2, "micro_batch_size": 2}
LIMIT = 200 * 2**20


def test_a_model_that_cannot_be_built_is_a_crash(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("build"))
    assert (row["outcome"], row["failed_phase"], row["failed_rank"]) == (Outcome.CRASH, "build", 1)
    assert "rank 1 raised ValueError: this model cannot be built" in row["outcome_reason"]


def test_an_allocation_that_can_never_be_met_is_out_of_memory(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("allocate"))
    assert (row["outcome"], row["failed_step"]) == (Outcome.OOM_HOST, 2)
    assert "rank 1 raised RuntimeError" in row["outcome_reason"]


def test_memory_that_was_held_between_two_looks_counts(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("spike"), memory_limit=LIMIT)
    assert row["outcome"] is Outcome.OOM_HOST


def test_the_steps_before_a_failure_are_recorded(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("kill"))
    steps = laboratory.runner.store.steps()
    assert set(steps[steps["trial_id"] == row["trial_id"]]["step"]) == {0, 1, 2}
    assert (row["loss_first"] > 0, row["failed_step"], row["failed_rank"]) == (True, 2, 1)
