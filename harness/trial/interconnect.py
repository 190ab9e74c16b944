"""How fast the ranks of this machine add up what they hold: an all-reduce among all of them."""

from __future__ import annotations

import json
import time

import torch
import torch.distributed as dist

from harness.trial.job import Job
from harness.trial.rank import device_of, join

SENT = 16 << 20
"""Bytes of the large all-reduce: beyond it the rate hardly grows."""
SMALL = 8
"""Bytes of the one that shows the latency."""
REPEATS = 7
FILE = "interconnect.json"


def main(job: Job, rank: int) -> None:
    """Write the rates into the job's folder; the first rank does."""
    device = device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    join(job, rank, device)
    large, small = seconds(SENT, device), seconds(SMALL, device)
    if rank == 0:
        # What a ring sends over each link: 2 (n - 1) / n of the data (Patarasuk and Yuan 2009, "Bandwidth optimal
        # all-reduce algorithms for clusters of workstations").
        share = 2 * (job.world_size - 1) / job.world_size
        found = {
            "all_reduce_bytes_per_s": share * SENT / large,
            "all_reduce_latency_s": small,
            "backend": dist.get_backend(),
        }
        hidden = job.folder / f".{FILE}"
        hidden.write_text(json.dumps(found))
        hidden.rename(job.folder / FILE)
    dist.barrier()
    dist.destroy_process_group()


def seconds(size: int, device: torch.device) -> float:
    """Median time of an all-reduce of `size` bytes of fp32 among all ranks, in s."""
    data = torch.ones(size // 4, device=device)
    times = []
    for _ in range(REPEATS):
        dist.barrier()
        _wait(device)
        begin = time.perf_counter()
        dist.all_reduce(data)
        _wait(device)
        times.append(time.perf_counter() - begin)
    return sorted(times)[REPEATS // 2]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
