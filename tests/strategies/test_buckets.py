"""`bucket_mb` means the same wherever gradients are summed in buckets: 10^6 bytes of gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import strategies
from harness.plan import complete
from strategies import ddp, flat

KNOBS = strategies.knobs(strategies.registry().values())


def model(dtype: torch.dtype, layers: int = 24) -> nn.Module:
    """Layers of 100,000 parameters each, without biases."""
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(250, 400, bias=False, dtype=dtype) for _ in range(layers)))


def training(bucket_mb: float, dtype: torch.dtype = torch.float32, reduce: torch.dtype | None = None) -> Any:
    made = model(dtype)
    return SimpleNamespace(
        plan={"bucket_mb": bucket_mb},
        parts=[made],
        group=lambda axis: None,
        param_dtype=dtype,
        reduce_dtype=reduce,
        trained=lambda: list(made.named_parameters()),
        weight_decay=lambda name: 0.1,
        share=lambda name, sharded: 1.0,
        whole_name=lambda name: name,
        copies=set(),
    )


def largest_of_flat(monkeypatch: pytest.MonkeyPatch, given: Any) -> int:
    """Bytes of gradients in the fullest flat bucket."""
    monkeypatch.setattr(flat, "Bucket", lambda parameters, *others, **more: parameters)
    engine = flat.FlatEngine.__new__(flat.FlatEngine)
    engine.training, engine.dtype = given, given.reduce_dtype or given.param_dtype
    buckets: list[Any] = engine._fill_buckets(int(given.plan["bucket_mb"] * 1e6))
    return max(sum(p.numel() for p in bucket) for bucket in buckets) * engine.dtype.itemsize


@pytest.mark.parametrize(
    ("dtype", "reduce", "held"),
    [
        (torch.float32, None, 8_000_000),
        (torch.bfloat16, None, 8_000_000),
        (torch.bfloat16, torch.float32, 4_000_000),  # 8 MB of fp32 when they are summed
    ],
)
def test_torch_is_told_the_bytes_in_the_unit_that_it_counts_in(
    dtype: torch.dtype, reduce: torch.dtype | None, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    class Wrapped(nn.Module):
        def __init__(self, part: nn.Module, **options: Any) -> None:
            super().__init__()
            told.append(options["bucket_cap_mb"])

        def register_comm_hook(self, state: Any, hook: Any) -> None:
            pass

    monkeypatch.setattr(ddp, "DistributedDataParallel", Wrapped)
    ddp.wrap(training(8.0, dtype, reduce), gradient_as_bucket_view=True)
    assert [round(mib * 2**20) for mib in told] == [held]


@pytest.mark.parametrize(
    ("dtype", "reduce"),
    [
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_a_flat_bucket_holds_so_many_bytes_of_gradients_in_any_format(
    dtype: torch.dtype, reduce: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = largest_of_flat(monkeypatch, training(2.0, dtype, reduce))
    one = 100_000 * (reduce or dtype).itemsize
    assert 2_000_000 - one < held <= 2_000_000


def test_plans_without_buckets_have_no_size_of_them() -> None:
    base = {"dp": 2, "data_parallel": "zero2"}
    assert "bucket_mb" in complete(base, KNOBS)
    assert "bucket_mb" not in complete({**base, "zero2_impl": "fsdp2"}, KNOBS)
    assert "bucket_mb" not in complete({"dp": 2, "data_parallel": "zero3"}, KNOBS)
