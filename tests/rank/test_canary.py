"""The canary looks at every device, with work that takes longer than launching it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.rank import canary

L2_OF_A_B200 = 126 << 20
"""Bytes; of an H100 it is 50 MiB, of an RTX 4090 72 MiB (NVIDIA's data sheets)."""


def asked(device_type: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The sizes that are made on a device, without making them."""
    made: dict[str, Any] = {}
    tensor = SimpleNamespace(copy_=lambda source: None)

    def randn(*shape: int, device: torch.device, dtype: torch.dtype) -> list[Any]:
        made["product"] = (*shape[1:], dtype)
        return [tensor, tensor]

    def ones(size: int, **options: Any) -> Any:
        made["copied"] = size
        return tensor

    monkeypatch.setattr(canary.torch, "randn", randn)
    monkeypatch.setattr(canary.torch, "ones", ones)
    monkeypatch.setattr(canary.torch, "empty_like", lambda source: tensor)
    monkeypatch.setattr(canary, "_median", lambda call, device: 1.0)
    canary.parts(torch.device(device_type))
    return made


def test_a_device_gets_work_that_its_caches_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        on_device = asked("cuda", patch)
    with monkeypatch.context() as patch:
        on_cpu = asked("cpu", patch)
    assert on_device["product"] == (8192, 8192, torch.bfloat16)
    assert on_device["copied"] > 4 * L2_OF_A_B200
    assert on_cpu["product"] == (768, 768, torch.float32)


def test_the_slowest_device_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [1.0, 1.0, 3.0, 1.0]
    monkeypatch.setattr(canary, "device_of", lambda index, device_type: index)
    monkeypatch.setattr(canary, "multiply_in", lambda precision: None)
    monkeypatch.setattr(canary.torch.accelerator, "device_count", lambda: len(times))
    monkeypatch.setattr(canary, "parts", lambda index: {"product_s": times[index], "copy_s": 1.0})
    job: Any = SimpleNamespace(facts=SimpleNamespace(device_type="cuda"), threads=1, folder=tmp_path)
    threads = torch.get_num_threads()
    canary.main(job, 0)
    torch.set_num_threads(threads)
    assert json.loads((tmp_path / canary.FILE).read_text()) == {"product_s": 3.0, "copy_s": 1.0}
