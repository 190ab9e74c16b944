"""Gloo's collectives against those of strategies/collectives.py, at 2 and 4 ranks on this machine.

Both sides run in the same ranks, in turn, each call after a barrier; a call's time is that of its slowest rank.
all_reduce includes the copy that keeps its input, on both sides.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common

SIZES_MB = (1, 16, 64)


def operations(tensor: Any, world: int, group: Any) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name -> (gloo's own, ours)."""
    import torch.distributed as dist

    from strategies import collectives

    chunk = tensor.new_empty(tensor.numel() // world)
    return {
        "all_reduce": (lambda: dist.all_reduce(tensor.clone()), lambda: collectives.all_reduced(tensor, group)),
        "reduce_scatter": (
            lambda: dist.reduce_scatter_tensor(chunk, tensor),
            lambda: collectives.reduce_scatter(tensor, group).wait(),
        ),
        "all_gather": (
            lambda: dist.all_gather_into_tensor(tensor, chunk),
            lambda: collectives.all_gather(tensor, group).wait(),
        ),
    }


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call on its slowest rank."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    begin = time.perf_counter()
    call()
    slowest = torch.tensor(time.perf_counter() - begin)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return slowest.item()


def rank_main(rank: int, world: int, rendezvous: str, repeats: int, output: str) -> None:
    """One rank: every operation and size, both sides in turn."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    found = []
    for size in SIZES_MB:
        tensor = torch.zeros(size * 10**6 // 4 // world * world)
        group = dist.group.WORLD
        for name, (theirs, ours) in operations(tensor, world, group).items():
            timed(theirs), timed(ours)  # connections and buffers are made by the first call
            pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
            found.append((name, size, world, *zip(*pairs, strict=True)))
    if rank == 0:
        with open(output, "w") as file:
            json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, repeats=9)
    import torch.multiprocessing as mp

    os.environ.update(common.environment())  # before the ranks start: the allocator reads it only then

    found: list[Any] = []
    for world in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            output = f"{folder}/output"
            mp.spawn(  # type: ignore[attr-defined, no-untyped-call]
                rank_main, (world, f"{folder}/rendezvous", given.repeats, output), nprocs=world
            )
            with open(output) as file:
                found += json.load(file)
    rows = [
        [name, str(world), str(size), common.ms(theirs), common.ms(ours), common.ratio(ours, theirs)]
        for name, size, world, ours, theirs in sorted(found, key=lambda row: (row[0], row[2], row[1]))
    ]
    header = ("operation", "ranks", "MB", "gloo ms", "ours ms", "ratio")
    common.print_table(header, rows, "MB (10^6 bytes) of the whole tensor.")


if __name__ == "__main__":
    main()
