from __future__ import annotations

import pytest
import torch

from harness.rank.main import outcome_of


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
