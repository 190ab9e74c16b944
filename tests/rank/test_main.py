from __future__ import annotations

import pytest
import torch

from harness.rank.main import outcome_of
from strategies.base import UnsuitableError


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
        (torch.AcceleratorError("CUDA error: out of memory", 2), "oom_device"),
        (torch.distributed.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"), "oom_device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom_device"),
        (UnsuitableError("no layer could be quantised"), "infeasible"),
        (RuntimeError("something else"), "crash"),
        (ValueError("DefaultCPUAllocator"), "crash"),
        (KeyboardInterrupt(), "crash"),
    ],
)
def test_an_exception_is_told_apart_by_its_type(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome
