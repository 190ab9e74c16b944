"""The watched step of a rank's warm-up leaves the training as it was."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.launchers.events import EventWriter
from harness.launchers.job import Job, Measurement
from harness.rank.main import build
from harness.rank.measure import RankTrial
from harness.rank.peak_memory import memory_of
from tests.tiny import facts, gpt, plan


def test_what_a_strategy_put_in_the_place_of_finish_gradients_is_called_in_every_step(tmp_path: Path) -> None:
    workload, alone = gpt(), plan({"micro_batch_size": 4})
    job = Job(
        workload=workload,
        plan=alone,
        facts=facts(workload, 1),
        folder=tmp_path,
        threads=1,
        measurement=Measurement(warmup_steps=4),
    )
    training = build(workload, alone, job.facts, torch.device("cpu"))
    finish, calls = training.engine.finish_gradients, []

    def counted() -> None:
        calls.append(1)
        finish()

    training.engine.finish_gradients = counted  # type: ignore[method-assign]
    trial = RankTrial(job, training, EventWriter(tmp_path / "events"), memory_of(training.device), 0)
    trial.warm_up()
    trial.step("measure")
    assert len(calls) == 5
    assert training.engine.finish_gradients is counted
