"""Real ranks that go wrong: each failure is told apart, costs its own trial only, and leaves no process behind."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from harness.records import Outcome
from harness.trial.job import Deadlines
from tests.tiny import Laboratory
from tests.trial.faulty import faulty

PLAN = {"dp": 2, "micro_batch_size": 2}
PATIENCE = Deadlines(start=60.0, step=30.0)
LIMIT = 200 * 2**20

FAULTS: dict[str, tuple[Outcome, str, str, dict[str, Any]]] = {
    "build": (Outcome.CRASH, "rank 1 raised ValueError: this model cannot be built", "build", {}),
    "kill": (Outcome.CRASH, "SIGKILL ended rank 1 in warmup, after step 2", "warmup", {}),
    "leave": (Outcome.CRASH, "rank 1 ended in warmup, after step 2 without having finished", "warmup", {}),
    "fail": (Outcome.CRASH, "rank 1 ended with exit status 3 in warmup, after step 2", "warmup", {}),
    "hang": (Outcome.HANG, "gave no sign of life for 2 s in warmup", "warmup", {"deadlines": Deadlines(step=2.0)}),
    "hold": (Outcome.OOM_HOST, "B where the memory limit is 209715200 B", "warmup", {"memory_limit": LIMIT}),
    "allocate": (Outcome.OOM_HOST, "rank 1 raised RuntimeError", "warmup", {}),
    "nan": (Outcome.NAN, "loss of step 0 is nan", "teardown", {}),
}


def processes() -> set[int]:
    """Everything this process started, the fork server and its ranks included."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_apart_and_the_next_trial_is_sound(fault: str, laboratory: Laboratory) -> None:
    outcome, reason, phase, changes = FAULTS[fault]
    laboratory.runner.launcher.warm_up()
    before = processes()
    row = laboratory.run(PLAN, faulty(fault), **{"deadlines": PATIENCE, **changes})
    assert row["outcome"] is outcome
    assert reason in row["outcome_reason"]
    assert row["failed_phase"] == phase
    assert processes() == before
    assert laboratory.run(PLAN, faulty("none"))["outcome"] is Outcome.OK
    assert processes() == before


def test_wrongly_scaled_gradients_are_a_failure_of_the_numerics(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("scale"))
    assert (row["outcome"], row["numerics"]) == (Outcome.NUMERICS, "fail")
    assert "gradient norm of step 0" in row["outcome_reason"]
    assert row["numerics_max_rel_error"] > row["numerics_tolerance"]


def test_memory_that_was_held_between_two_looks_counts(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("spike"), memory_limit=LIMIT)
    assert row["outcome"] is Outcome.OOM_HOST
    assert "memory limit is 209715200 B" in row["outcome_reason"]


def test_the_steps_before_a_failure_are_recorded(laboratory: Laboratory) -> None:
    row = laboratory.run(PLAN, faulty("kill"))
    steps = laboratory.runner.store.steps()
    assert set(steps[steps["trial_id"] == row["trial_id"]]["step"]) == {0, 1, 2}
    assert (row["loss_first"] > 0, row["failed_step"], row["failed_rank"]) == (True, 2, 1)
