"""Initial values: their distribution, and that nothing but seed, name and index decides them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from harness.workloads import initial

CPU = torch.device("cpu")


def values(name: str = "a", seed: int = 0, count: int = 1 << 20) -> torch.Tensor:
    return initial.normal(seed, name, (count,), 1.0, CPU)


def by_hand(seed: int, name: str, count: int) -> np.ndarray:
    """The same in numpy, whose unsigned integers need no care."""
    found = np.empty(count, np.float32)
    for number, begin in enumerate(range(0, count, initial.CHUNK)):
        digest = hashlib.sha256(f"{seed}/{name}/{number}".encode()).digest()
        first, second = (np.uint32(int.from_bytes(digest[at : at + 4])) for at in (0, 4))
        x = np.arange(min(initial.CHUNK, count - begin), dtype=np.uint32) ^ first
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D) ^ second
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
        found[begin : begin + len(x)] = initial.quantiles().numpy()[x >> 16]
    return found


@pytest.mark.parametrize("count", [1, 67, initial.CHUNK, initial.CHUNK + 1, 3 * initial.CHUNK - 5])
def test_every_bit_follows_from_seed_name_and_index(count: int) -> None:
    assert np.array_equal(initial.normal(3, "blocks.0.x", (count,), 1.0, CPU).numpy(), by_hand(3, "blocks.0.x", count))


def test_threads_and_shape_change_nothing() -> None:
    before = torch.get_num_threads()
    whole = values(count=600_000)
    try:
        torch.set_num_threads(1)
        assert torch.equal(initial.normal(0, "a", (600, 1000), 1.0, CPU).view(-1), whole)
    finally:
        torch.set_num_threads(before)


def test_they_are_normally_distributed() -> None:
    found = values().double()
    assert abs(found.mean()) < 4 / 1024
    assert abs(found.std() - 1) < 0.004
    assert abs((found**4).mean() - 3) < 0.06
    bins = torch.bucketize(found, torch.special.ndtri(torch.linspace(0, 1, 65, dtype=torch.float64)[1:-1]))
    expected = len(found) / 64
    chi_squared = float(((torch.bincount(bins, minlength=64) - expected) ** 2 / expected).sum())
    assert 30 < chi_squared < 115  # 63 degrees of freedom: less or more happens once in ten thousand


def test_neighbours_names_and_seeds_have_nothing_in_common() -> None:
    a = values().double()
    others = [values("b"), values("a", seed=1), *(a.roll(by) for by in (1, 2, 64, 1024, initial.CHUNK))]
    assert max(abs(float((a * other.double()).mean())) for other in others) < 5 / 1024


def test_a_matrix_of_them_has_the_singular_values_of_a_random_one() -> None:
    largest = float(torch.linalg.matrix_norm(values().view(1024, 1024), ord=2))
    assert 2 * 32 * 0.96 < largest < 2 * 32 * 1.04


def test_the_deviation_is_what_is_asked_for() -> None:
    assert torch.equal(initial.normal(0, "a", (100,), 0.5, CPU), values(count=100) / 2)
