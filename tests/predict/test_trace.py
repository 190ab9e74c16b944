"""The trace against what the contract tests' ranks hold: see also benchmarks/predict_machine.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from harness.predict.trace import once, rank_of, worst_rank
from harness.rank.main import build
from harness.rank.observe import watching
from tests.tiny import facts, gpt, plan

WORLD = {
    "ddp": {"data_parallel": "ddp", "dp": 2},
    "ddp, no views": {"data_parallel": "ddp", "dp": 2, "gradient_as_bucket_view": False},
    "zero1": {"data_parallel": "zero1", "dp": 2},
    "zero1 of torch": {"data_parallel": "zero1", "dp": 2, "zero1_impl": "torch"},
    "zero2": {"data_parallel": "zero2", "dp": 2},
    "zero2 by fsdp2": {"data_parallel": "zero2", "dp": 2, "zero2_impl": "fsdp2"},
    "zero3": {"data_parallel": "zero3", "dp": 2},
    "tensor": {"tp": 2},
    "zero3 and tensor": {"data_parallel": "zero3", "dp": 2, "tp": 2},
    "zero3 and pipeline": {"data_parallel": "zero3", "dp": 2, "pp": 2, "micro_batch_size": 1},
    "everything": {"data_parallel": "zero2", "dp": 2, "tp": 2, "pp": 2, "micro_batch_size": 1},
    "gpipe": {"pp": 2, "pp_schedule": "gpipe", "micro_batch_size": 1},
    "1f1b": {"pp": 2, "pp_schedule": "1f1b", "micro_batch_size": 1},
    "bf16": {"data_parallel": "ddp", "dp": 2, "precision": "bf16_params"},
    "full": {"data_parallel": "ddp", "dp": 2, "activation_checkpoint": "full"},
}


def traced(settings, **options):
    made = plan({"micro_batch_size": 4, **settings})
    workload = gpt(**{"blocks": 2, **options})
    return worst_rank(workload, made, facts(workload, made.world_size))


@pytest.mark.parametrize("name", WORLD)
def test_every_strategy_is_traced_without_its_devices(name: str) -> None:
    found = traced(WORLD[name])
    assert found.peak_bytes > 0
    assert found.memory["params"] > 0
    assert found.sent_bytes > 0
    assert found.operators
    assert not dist.is_initialized()


def test_one_process_holds_exactly_what_is_traced() -> None:
    workload, made = gpt(blocks=2), plan({"micro_batch_size": 4})
    known = facts(workload, 1)
    training = build(workload, made, known, torch.device("cpu"))
    batch = workload.samples(0, np.array(training.sample_indices))
    for step in range(2):
        training.step(step, batch)
    with watching(training) as observer:
        training.step(2, batch)
    assert once(workload, made, known, 0).peak_bytes == pytest.approx(sum(observer.at_peak().values()), rel=0.01)


def test_what_is_divided_is_held_in_parts() -> None:
    ddp, zero1, zero3 = (traced(WORLD[name]).memory for name in ("ddp", "zero1", "zero3"))
    assert zero1["optimizer"] == pytest.approx(ddp["optimizer"] / 2, rel=0.05)
    assert zero3["params"] == pytest.approx(ddp["params"] / 2, rel=0.05)


def test_gradients_that_add_up_over_micro_batches_lie_beside_the_buckets() -> None:
    once_a_step, four = (traced({**WORLD["ddp"], "micro_batch_size": size}, width=256) for size in (4, 1))
    # A quarter of the samples at once, and yet more that is no gradient yet: sums that lie outside of the buckets.
    assert four.memory["activations"] > once_a_step.memory["activations"]
    assert four.memory["activations"] > four.memory["grads"]
    assert four.collectives["all_reduce"] == once_a_step.collectives["all_reduce"]


def test_checkpointing_holds_fewer_activations() -> None:
    assert traced(WORLD["full"]).memory["activations"] < traced(WORLD["ddp"]).memory["activations"]


def test_a_deep_model_is_traced_by_two_shallow_ones() -> None:
    workload = gpt(blocks=12)
    made = plan({"data_parallel": "ddp", "dp": 2, "micro_batch_size": 4})
    known = facts(workload, 2)
    deep, whole = rank_of(workload, made, known, 0), once(workload, made, known, 0)
    assert deep.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.02)
    assert sum(deep.operators.values()) == pytest.approx(sum(whole.operators.values()), rel=0.02)
    assert deep.sent_bytes == pytest.approx(whole.sent_bytes, rel=0.02)


MANY = {
    "gpipe": {"pp": 2, "pp_schedule": "gpipe"},
    "1f1b": {"pp": 2, "pp_schedule": "1f1b"},
    "1f1b with zero2": {"pp": 2, "pp_schedule": "1f1b", "dp": 2, "data_parallel": "zero2"},
    "zero1": {"dp": 2, "data_parallel": "zero1"},
}


@pytest.mark.parametrize("name", MANY)
def test_many_micro_batches_are_traced_by_fewer(name: str) -> None:
    made = plan({"micro_batch_size": 1, **MANY[name]})
    workload = gpt(blocks=2, global_batch_size=9 * int(made["dp"]))
    known = facts(workload, made.world_size)
    whole, line = once(workload, made, known, 0), rank_of(workload, made, known, 0)
    assert line.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)
    assert line.sent_bytes == pytest.approx(whole.sent_bytes, rel=1e-6)
    assert sum(line.operators.values()) == pytest.approx(sum(whole.operators.values()), rel=0.01)


def test_the_first_rank_of_many_is_traced_like_that_of_two() -> None:
    workload = replace(gpt(blocks=2), global_batch_size=64)
    made = plan({"data_parallel": "zero3", "dp": 64, "micro_batch_size": 1})
    found = worst_rank(workload, made, facts(workload, 64))
    assert found.memory["params"] < traced(WORLD["zero3"]).memory["params"]


def test_a_process_that_has_a_process_group_is_refused() -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(RuntimeError, match="process group"):
            traced(WORLD["ddp"])
    finally:
        dist.destroy_process_group()
