"""What the ranks of this machine do at once: products, attention, element-wise operators, collectives by size.

All ranks measure at the same time, each with the threads that it has in a trial: on a CPU they share its cores and its
memory, and what one process can do alone says little. Times are medians.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from harness.launchers.job import Job
from harness.plan import Plan
from harness.rank import probe
from harness.rank.counters import Counters, foreign_share
from harness.rank.main import device_of, join
from harness.rank.peak_memory import memory_of
from harness.rank.stopwatch import Stopwatch
from strategies import collectives
from strategies.precision import multiply_in

FILE = "calibration.json"
PROBES_S = 20.0
"""No short training is begun for the first time after so many seconds of them; a small model takes half of it."""
BATCHES = (1, 8)
"""Samples whose tokens are the rows of products."""
SIZES = (1 << 10, 1 << 18, 1 << 24)
"""Bytes of collectives."""
BEYOND_CACHES = 1 << 30
"""Bytes that element-wise operators of a device are timed on; its level-2 cache may hold 100 MB."""
LARGEST_DEVICE = 1 << 28
"""Bytes of the largest collective among devices, which reach their full rate later."""
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(job: Job, rank: int, plans: Sequence[Plan] = ()) -> None:
    """Write what was measured into the job's folder; the first rank does.

    Args:
        job: whose shapes are measured.
        rank: this process.
        plans: those of which short trainings are measured too.
    """
    device = device_of(rank, job.facts.device_type)
    torch.set_num_threads(job.threads)
    group = None
    if job.world_size > 1:
        join(job, rank, device)
        group = dist.group.WORLD
    watch, counters = Stopwatch(device, group), Counters(rank, device)
    before, begin = counters.read(), time.monotonic()
    multiply_in("fp32")
    found: dict[str, Any] = {
        "threads": job.threads,
        "device_type": device.type,
        "torch": torch.__version__,
        "matmul": products(job, watch),
        "attention": attention(job, watch),
        "elementwise_bytes_per_s": elementwise(watch),
        "operator_s": watch.seconds(_small_operator(device)),
    }
    if group is not None:
        found |= communication(watch, group)
    if (outside := memory_of(device).outside()) is not None:
        found["context_bytes"] = outside
    found["foreign_cpu_share"] = foreign_share(before, counters.read(), time.monotonic() - begin, job.world_size)
    _write(job, rank, found)
    if plans:
        probe.run(job, plans, watch, PROBES_S, lambda probed: _write(job, rank, found | probed))
    if group is not None and device.type == "cpu":
        dist.barrier()
        dist.destroy_process_group()


def _write(job: Job, rank: int, found: Mapping[str, Any]) -> None:
    if rank == 0:
        hidden = job.folder / f".{FILE}"
        hidden.write_text(json.dumps(found))
        hidden.rename(job.folder / FILE)


def products(job: Job, watch: Stopwatch) -> list[dict[str, Any]]:
    """Matrix products as a block of the workload has them, by number format."""
    model, found = job.facts.model, []
    width, hidden = model.width or 256, model.hidden or 4 * (model.width or 256)
    for name, dtype in FORMATS.items():
        for batch in BATCHES:
            rows = batch * job.facts.seq_len
            for columns, inner in ((3 * width, width), (hidden, width), (width, hidden)):
                a = torch.randn(rows, inner, device=watch.device).to(dtype)
                b = torch.randn(columns, inner, device=watch.device).to(dtype)
                seconds = watch.seconds(lambda a=a, b=b: F.linear(a, b))  # type: ignore[misc]
                rate = 2 * rows * columns * inner / seconds
                found.append({"format": name, "m": rows, "n": columns, "k": inner, "flops_per_s": rate})
    return found


def attention(job: Job, watch: Stopwatch) -> list[dict[str, Any]]:
    """Causal attention as the workload has it, forward, for one sample."""
    model = job.facts.model
    if not model.heads:
        return []
    found = []
    for name, dtype in FORMATS.items():
        q, k, v = torch.randn(3, 1, model.heads, job.facts.seq_len, model.head_dim, device=watch.device).to(dtype)
        call = lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
        # Two products for each pair of positions, half of which causality masks.
        flops = 2 * model.heads * job.facts.seq_len**2 * model.head_dim
        found.append({"format": name, "flops": flops, "seconds": watch.seconds(call)})
    return found


def elementwise(watch: Stopwatch) -> float:
    """Bytes read and written per second by an operator that computes next to nothing."""
    data = torch.ones(4 << 20 if watch.device.type == "cpu" else BEYOND_CACHES // 4, device=watch.device)
    return 2 * data.numel() * data.element_size() / watch.seconds(lambda: data * 2.0)


def _small_operator(device: torch.device) -> Callable[[], object]:
    data = torch.ones(16, device=device)
    return lambda: data + 1.0


def communication(watch: Stopwatch, group: dist.ProcessGroup) -> dict[str, Any]:
    """Collectives as strategies run them, by size.

    A ring sends 2 (n - 1) / n of its data over each link (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce
    algorithms for clusters of workstations").
    """
    world, device = dist.get_world_size(group), watch.device
    sizes = SIZES if device.type == "cpu" else (*SIZES, LARGEST_DEVICE)
    table: dict[str, list[tuple[int, float]]] = {"all_reduce": [], "all_gather": [], "reduce_scatter": [], "send": []}
    for size in sizes:
        data = torch.ones(size // 4 // world * world, device=device)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda data=data: dist.all_reduce(data, group=group),  # type: ignore[misc]
            "all_gather": lambda data=data: collectives.all_gather(data, group).wait(),  # type: ignore[misc]
            "reduce_scatter": lambda data=data: collectives.reduce_scatter(data, group).wait(),  # type: ignore[misc]
            "send": lambda data=data: _shift(data, group),  # type: ignore[misc]
        }
        for name, call in calls.items():
            table[name].append((size, watch.seconds(call)))
    small, large = table["all_reduce"][0][1], table["all_reduce"][-1]
    return {
        "collectives": table,
        "all_reduce_latency_s": small,
        "all_reduce_bytes_per_s": 2 * (world - 1) / world * large[0] / large[1],
        "backend": dist.get_backend(),
    }


def _shift(data: torch.Tensor, group: dist.ProcessGroup) -> None:
    """Every rank sends to the next one."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    received = torch.empty_like(data)
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.isend, data, group=group, group_peer=(rank + 1) % world),
            dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - 1) % world),
        ]
    )
    for work in works:
        work.wait()
