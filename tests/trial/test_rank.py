from __future__ import annotations

import pytest
import torch

from harness.trial.observe import Observer
from harness.trial.rank import outcome_of

MB = 250_000
"""Elements of fp32 in a megabyte."""


def raised(size: int) -> BaseException:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(size, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (raised(2**60), "oom_host"),
        (MemoryError(), "oom_host"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom_device"),
        (RuntimeError("something else"), "crash"),
        (ValueError("DefaultCPUAllocator"), "crash"),
        (KeyboardInterrupt(), "crash"),
    ],
)
def test_an_exception_is_told_apart_by_its_type(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_activations_are_what_lives_at_once_and_dies_within_the_pass() -> None:
    with Observer() as observer:
        one = torch.ones(MB)
        two = one * 2
        del one
        three = two * 3
        del two, three
    assert observer.peak_bytes() == 8 * MB


def test_what_outlives_the_pass_and_what_is_known_does_not_count() -> None:
    known = torch.ones(MB)
    observer = Observer()
    observer.know([known])
    with observer:
        known.mul_(2)
        view = known[10:]
        kept = torch.ones(MB)
        passing = torch.ones(2 * MB)
        del passing
    assert observer.peak_bytes() == 8 * MB
    assert (len(view), len(kept)) == (MB - 10, MB)


def test_the_graph_of_a_backward_pass_counts_until_it_is_freed() -> None:
    weight = torch.ones(MB, requires_grad=True)
    with Observer() as observer:
        loss = (weight * 2).exp().sum()
        loss.backward()
        del loss
    assert 4 * MB < observer.peak_bytes() <= 3 * 4 * MB + 64
