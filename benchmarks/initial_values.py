"""What it costs to make the initial values of a model by a hash of (seed, name, index), beside torch's own generator.

Every parameter is made whole and dropped, one after the other, as a rank does that keeps its share of each.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import common

Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    """Measure and print the table."""
    given = common.arguments(__doc__, workload="gpt-1.3b", repeats=3)
    import psutil
    import torch

    from harness import workloads

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        workload = workloads.create(given.workload, cache=Path(cache))
    with torch.device("meta"):
        shapes: Shapes = {name: tuple(p.shape) for name, p in workload.build().named_parameters()}
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    device, process = torch.device("cpu"), psutil.Process()

    def hashed(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return workload.initial(name, shape, device)

    def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape).normal_(std=0.02)

    rows, seconds = [], {}
    hashed(*next(iter(shapes.items())))  # makes its table
    for label, make in (("hash", hashed), ("torch's normal_", drawn)):
        times, held = [], 0
        for _ in range(given.repeats):
            begin = time.perf_counter()
            for name, shape in shapes.items():
                value = make(name, shape)
                held = max(held, process.memory_info().rss)
                del value
            times.append(time.perf_counter() - begin)
        seconds[label] = statistics.median(times)
        rows.append([label, f"{seconds[label]:.1f}", f"{count / seconds[label] / 1e6:.0f}", f"{held / 1e6:.0f}"])
    largest = max(torch.Size(shape).numel() for shape in shapes.values())
    common.print_table(
        ("rule", "s", "million values/s", "resident MB at most"),
        rows,
        f"One core, {count / 1e9:.2f} G values, the largest tensor {4 * largest / 1e6:.0f} MB. Ratio of the times: "
        f"{seconds['hash'] / seconds[label]:.2f}.",
    )


if __name__ == "__main__":
    main()
