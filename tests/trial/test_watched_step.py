"""The watched step of a rank's warm-up leaves the training as it was."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.trial.events import EventWriter
from harness.trial.job import Job, Measurement
from harness.trial.measure import RankTrial
from harness.trial.memory import memory_of
from harness.trial.rank import build
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
