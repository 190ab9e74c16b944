"""A plain program that knows nothing of training: if it takes longer than usual, the machine has changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from harness.launchers.job import Job
from harness.rank.main import device_of

ROWS = 768
"""Of the square matrices: a product takes some milliseconds on a core."""
COPIED = 64 << 20
"""Bytes copied at once: more than a core's caches hold."""
SECONDS = 0.2
"""How long each part is repeated, in s."""
FILE = "canary.json"


def main(job: Job, rank: int) -> None:
    """Write the median seconds of each part into the job's folder."""
    device = device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    a, b = torch.randn(2, ROWS, ROWS, device=device)
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = {
        "product_s": _median(lambda: torch.mm(a, b), device),
        "copy_s": _median(lambda: target.copy_(source), device),
    }
    hidden = job.folder / f".{FILE}"
    hidden.write_text(json.dumps(found))
    hidden.rename(job.folder / FILE)


def _median(call: Callable[[], object], device: torch.device) -> float:
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    call()
    while time.perf_counter() < end or not times:
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
