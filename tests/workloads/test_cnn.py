from __future__ import annotations

import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import InputError
from harness.workloads.cnn import Cnn, Digits, load_digits

CPU = torch.device("cpu")
IMAGES = Digits(pixels=bytes(range(17)) * 64 * 3, labels=bytes(n % 10 for n in range(51)))
TINY = Cnn(name="cnn", global_batch_size=16, digits=IMAGES, channels=8)


def model(workload: Cnn) -> torch.nn.Module:
    built = workload.build()
    for name, parameter in built.named_parameters():
        parameter.data = workload.initial(name, tuple(parameter.shape), CPU)
    return built


@given(st.integers(0, 1000), st.lists(st.integers(0, 15), min_size=1, max_size=16))
def test_a_sample_does_not_depend_on_which_others_are_asked_for(step: int, indices: list[int]) -> None:
    every, some = TINY.samples(step, np.arange(16)), TINY.samples(step, np.array(indices))
    assert all(torch.equal(some[name], every[name][indices]) for name in ("images", "labels"))


def test_samples_are_images_from_0_to_1_and_their_classes() -> None:
    inputs, targets = TINY.samples(0, np.arange(16)).values()
    assert (inputs.shape, inputs.dtype, targets.shape, targets.dtype) == (
        (16, 1, 8, 8),
        torch.float32,
        (16,),
        torch.int64,
    )
    assert 0 <= inputs.min() < inputs.max() <= 1
    assert 0 <= targets.min() < targets.max() <= 9


def test_the_digits_of_scikit_learn_are_read_whole() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits, original = load_digits(), datasets.load_digits()
    assert np.frombuffer(digits.pixels, np.uint8).reshape(-1, 8, 8).tolist() == original.images.tolist()
    assert list(digits.labels) == original.target.tolist()


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'distributed-harness\[cnn\]'"):
        load_digits()


def test_the_model_learns_the_digits() -> None:
    pytest.importorskip("sklearn")
    workload = replace(TINY, digits=load_digits(), global_batch_size=64)
    network = model(workload)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step in range(60):
        batch = workload.samples(step, np.arange(64))
        outputs = network(batch["images"])
        optimizer.zero_grad()
        torch.autograd.backward(workload.loss(outputs, batch)[0] / 64)
        optimizer.step()
    right, of = workload.metric(outputs, batch)
    assert right / of > 0.8


def test_dividing_a_batch_does_not_change_the_gradient() -> None:
    batch = TINY.samples(0, np.arange(16))
    whole, divided = model(TINY), model(TINY)
    torch.autograd.backward(TINY.loss(whole(batch["images"]), batch)[0])
    for part in (slice(0, 4), slice(4, 16)):
        some = {name: tensor[part] for name, tensor in batch.items()}
        torch.autograd.backward(TINY.loss(divided(some["images"]), some)[0])
    for a, b in zip(whole.parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    shape = (16, 8, 3, 3)
    value = TINY.initial("features.3.weight", shape, CPU)
    torch.manual_seed(123)
    assert torch.equal(value, TINY.initial("features.3.weight", shape, CPU))
    assert not torch.equal(value, TINY.initial("features.6.weight", shape, CPU))
    assert not torch.equal(value, replace(TINY, seed=1).initial("features.3.weight", shape, CPU))


def test_initial_values_are_scaled_by_fan_in_with_plain_norms_and_biases() -> None:
    assert TINY.initial("features.3.weight", (256, 32, 3, 3), CPU).std().item() == pytest.approx(
        (2 / 288) ** 0.5, rel=0.02
    )
    assert TINY.initial("head.weight", (512, 512), CPU).std().item() == pytest.approx((1 / 512) ** 0.5, rel=0.02)
    assert TINY.initial("features.4.weight", (8,), CPU).tolist() == [1.0] * 8
    assert TINY.initial("features.4.bias", (8,), CPU).tolist() == [0.0] * 8


@pytest.mark.parametrize("channels", [8, 24])
def test_parameters_and_flops_are_those_of_the_model(channels: int) -> None:
    workload = replace(TINY, channels=channels)
    network = model(workload)
    assert workload.facts().parameters == sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter:
        network(workload.samples(0, np.arange(16))["images"])
    assert workload.flops_per_step() == 3 * counter.get_total_flops()


def test_facts_say_that_it_has_no_blocks_to_cut_or_split() -> None:
    facts = TINY.facts()
    assert (facts.blocks, facts.stem, dict(facts.tensor_parallel), TINY.tokens_per_step) == ((), (), {}, 16)


def test_the_metric_is_the_share_of_right_answers() -> None:
    outputs = torch.eye(10)[:4]
    right, of = TINY.metric(outputs, {"labels": torch.tensor([0, 1, 2, 9])})
    assert (right.item(), of) == (3.0, 4.0)


def test_everything_that_changes_the_mathematics_changes_the_identity() -> None:
    others = [
        replace(TINY, seed=1),
        replace(TINY, channels=16),
        replace(TINY, global_batch_size=8),
        replace(TINY, digits=Digits(pixels=IMAGES.pixels, labels=bytes(51))),
    ]
    assert len({workload.workload_id for workload in [TINY, *others]}) == 5
    assert pickle.loads(pickle.dumps(TINY)).workload_id == TINY.workload_id


@pytest.mark.parametrize(("field", "value"), [("channels", 0), ("channels", 12), ("global_batch_size", 0)])
def test_an_impossible_shape_is_refused(field: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"{field} must be .* but got {value}"):
        replace(TINY, **{field: value})  # type: ignore[arg-type]
