from __future__ import annotations

import pytest
import torch

from harness.rank.observe import ACTIVATIONS, BUFFERS, GRADS, PARAMS, Observer
from strategies import Setting
from tests.tiny import Laboratory, facts, gpt, plan

MB = 250_000
"""Elements of fp32 in a megabyte."""
BYTES = 4 * MB

PLANS: dict[str, dict[str, Setting]] = {
    "one": {"micro_batch_size": 8},
    "ddp": {"dp": 2, "data_parallel": "ddp", "micro_batch_size": 2},
    "zero1": {"dp": 2, "data_parallel": "zero1", "micro_batch_size": 2},
    "zero2": {"dp": 2, "data_parallel": "zero2", "bucket_mb": 1.0, "micro_batch_size": 2},
    "zero3": {"dp": 2, "data_parallel": "zero3", "micro_batch_size": 2},
    "fsdp2": {"dp": 2, "data_parallel": "zero2", "zero2_impl": "fsdp2", "micro_batch_size": 2},
    "tensor": {"tp": 2, "micro_batch_size": 4},
    "pipeline": {"pp": 2, "micro_batch_size": 2},
    "checkpoint": {"micro_batch_size": 8, "activation_checkpoint": "full"},
    "bf16_params": {"dp": 2, "data_parallel": "zero1", "precision": "bf16_params", "micro_batch_size": 2},
}


def test_activations_are_what_lives_at_once() -> None:
    with Observer() as observer:
        one = torch.ones(MB)
        two = one * 2
        del one
        three = two * 3
        del two, three
    assert observer.at_peak()[ACTIVATIONS] == 2 * BYTES


def test_what_was_told_counts_in_its_category_from_the_beginning() -> None:
    known = torch.ones(MB)
    observer = Observer({PARAMS: [known]})
    with observer:
        known.mul_(2)
        passing = torch.ones(2 * MB)
        del passing
    found = observer.at_peak()
    assert (found[PARAMS], found[ACTIVATIONS]) == (BYTES, 2 * BYTES)
    assert observer.standing_bytes() == BYTES


def test_what_an_operator_is_given_without_having_been_made_was_there_before() -> None:
    batch = torch.ones(MB)
    with Observer() as observer:
        batch.mul_(2)
    assert observer.at_peak()[BUFFERS] == BYTES


def test_gradients_that_live_at_the_peak_are_told_apart_from_activations() -> None:
    weight = torch.ones(MB, requires_grad=True)
    observer = Observer({PARAMS: [weight]})
    with observer:
        (weight * 2).exp().sum().backward()
        assert weight.grad is not None
        observer.tell(GRADS, [weight.grad])
        torch.ones(8 * MB)
    found = observer.at_peak()
    assert (found[PARAMS], found[GRADS], found[ACTIVATIONS]) == (BYTES, BYTES, 8 * BYTES)


def test_storage_that_is_freed_in_place_no_longer_counts() -> None:
    gathered = torch.ones(4 * MB)
    with Observer() as observer:
        gathered.untyped_storage().resize_(0)
        torch.ones(MB)
        assert observer.at_peak()[BUFFERS] == 4 * BYTES
        torch.ones(8 * MB)
    found = observer.at_peak()
    assert (found[BUFFERS], found[ACTIVATIONS]) == (0, 8 * BYTES)


@pytest.mark.parametrize("name", PLANS)
def test_the_categories_add_up_to_what_the_allocator_counts(name: str, laboratory: Laboratory) -> None:
    workload, tried = gpt(width=128), plan(PLANS[name])
    row = laboratory.follows(PLANS[name], workload)
    row |= laboratory.runner.profile(tried, workload, facts(workload, tried.world_size))[0]
    kinds = ("params", "grads", "optimizer", "buffers", "activations")
    together = sum(row[f"memory_{kind}_bytes"] for kind in kinds)
    assert together == pytest.approx(row["memory_tensor_peak_bytes"], rel=0.02)
    assert row["memory_tensor_peak_bytes"] > row["memory_params_bytes"] > 0
