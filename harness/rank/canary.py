"""A plain program that knows nothing of training: if it takes longer than usual, the machine has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from harness.launchers.job import Job
from harness.rank.main import device_of
from strategies.precision import multiply_in

ROWS, DEVICE_ROWS = 768, 8192
"""Of the square matrices: a product takes some milliseconds on a core, and in bf16 on a device."""
COPIED, DEVICE_COPIED = 64 << 20, 1 << 30
"""Bytes copied at once: more than the caches of a core, or of a device, hold."""
AT_ONCE = 4
"""Calls between two synchronisations of a device, so that what is timed is not the launching."""
SECONDS = 0.2
"""How long each part is repeated, in s."""
FILE = "canary.json"


def main(job: Job, rank: int) -> None:
    """Write the median seconds of each part into the job's folder, of the slowest device."""
    device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    multiply_in("fp32")
    count = 1 if job.facts.device_type == "cpu" else torch.accelerator.device_count()
    seen = [parts(device_of(index, job.facts.device_type)) for index in range(count)]
    found = {name: max(part[name] for part in seen) for name in seen[0]}
    hidden = job.folder / f".{FILE}"
    hidden.write_text(json.dumps(found))
    hidden.rename(job.folder / FILE)


def parts(device: torch.device) -> dict[str, float]:
    """Median seconds of each part on one device."""
    on_cpu = device.type == "cpu"
    rows, size, dtype = (ROWS, COPIED, torch.float32) if on_cpu else (DEVICE_ROWS, DEVICE_COPIED, torch.bfloat16)
    a, b = torch.randn(2, rows, rows, device=device, dtype=dtype)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "product_s": _median(lambda: torch.mm(a, b), device),
        "copy_s": _median(lambda: target.copy_(source), device),
    }


def _median(call: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    at_once = 1 if device.type == "cpu" else AT_ONCE
    call()
    while time.perf_counter() < end or not times:
        _wait(device)
        begin = time.perf_counter()
        for _ in range(at_once):
            call()
        _wait(device)
        times.append((time.perf_counter() - begin) / at_once)
    return sorted(times)[len(times) // 2]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
