"""The fastest this machine multiplies and copies: one process with every usable core, or one device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from harness.launchers.job import Job
from harness.rank.counters import Counters, foreign_share
from harness.rank.main import device_of
from strategies.precision import AMPERE, multiply_in

SIZES = (1024, 2048, 4096, 8192)
"""Rows of the square matrices; larger ones as long as they are fast enough and bring more."""
SECONDS = 0.15
"""How long each size is repeated, in s."""
COPIED = 256 << 20
"""Bytes that are copied at once: more than any cache holds."""
FILE = "peak.json"


def main(job: Job, rank: int) -> None:
    """Write the peaks into the job's folder."""
    device = device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type != "cpu":  # on a CPU, products in fp16 are emulated and would take minutes
        formats["fp16"] = torch.float16
    if job.facts.capability is not None and job.facts.capability >= AMPERE:
        formats["tf32"] = torch.float32
    counters = Counters(rank, device)
    before, begin = counters.read(), time.monotonic()
    rates = {}
    for name, dtype in formats.items():
        multiply_in(name)
        rates[name] = product_rate(dtype, device)
    copied = copy_rate(device)
    found = {
        "flops_per_s": rates,
        "copy_bytes_per_s": copied,
        "foreign_cpu_share": foreign_share(before, counters.read(), time.monotonic() - begin),
        "threads": job.threads,
        "torch": torch.__version__,
    }
    hidden = job.folder / f".{FILE}"
    hidden.write_text(json.dumps(found))
    hidden.rename(job.folder / FILE)


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Best rate of a matrix product over the sizes, in FLOP/s; 2 n^3 operations each."""
    best = 0.0
    for n in SIZES:
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        seconds = _fastest(lambda a=a, b=b: torch.mm(a, b), device)  # type: ignore[misc]
        rate = 2 * n**3 / seconds
        if rate < 1.05 * best:
            return max(best, rate)
        best = rate
        if 8 * seconds > SECONDS:
            return best
    return best


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second when memory is copied."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / _fastest(lambda: target.copy_(source), device)


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of repeated calls: a peak, so what disturbs a call does not count."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    call()
    while time.perf_counter() < end or best == float("inf"):
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
