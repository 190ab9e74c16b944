"""What runs in ranks to see which tensors are alive: by walking all of them, not by asking an engine."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from harness.launchers.job import Job
from harness.rank.main import build, join
from harness.rank.observe import Observer

CPU = torch.device("cpu")
STEPS = 3


def write_down(job: Job, rank: int) -> None:
    """Train some steps; the bytes that are alive after the build, between steps, and at the peak of a step."""
    if job.world_size > 1:
        join(job, rank, CPU)
    before = _alive()
    training = build(job.workload, job.plan, job.facts, CPU)
    found: dict[str, Any] = {"built": _bytes(_alive(), before)}
    samples = job.workload.samples(0, np.array(training.sample_indices))
    for step in range(STEPS):
        training.step(step, *samples)
    training.engine.drain()
    between = _alive()
    found["between"] = _bytes(between, before) - sum(t.untyped_storage().nbytes() for t in samples)
    found["small"] = sum(size for key, (size, itemsize) in between.items() if itemsize == 1 and key not in before)
    operators = _Operators()
    with operators, Observer() as observer:
        training.step(STEPS, *samples)
        training.engine.drain()
    found["peak"] = sum(observer.at_peak().values())
    found["operators"] = operators.counts
    (job.folder / f"rank{rank}.json").write_text(json.dumps(found))
    if job.world_size > 1:
        dist.barrier()


def _alive() -> dict[int, tuple[int, int]]:
    """Storage -> (bytes, bytes of an element) of every plain tensor that is not on the meta device."""
    gc.collect()
    found = {}
    for tensor in _tensors():
        if tensor.device.type == "cpu" and not is_traceable_wrapper_subclass(tensor):
            storage = tensor.untyped_storage()
            found[storage._cdata] = (storage.nbytes(), tensor.element_size())
    return found


def _tensors() -> Iterator[torch.Tensor]:
    for thing in gc.get_objects():
        with contextlib.suppress(Exception):  # objects of libraries that do not like to be asked what they are
            if isinstance(thing, torch.Tensor):
                yield thing
                if thing.grad is not None:
                    yield thing.grad


def _bytes(now: dict[int, tuple[int, int]], before: dict[int, tuple[int, int]]) -> int:
    return sum(size for key, (size, _) in now.items() if key not in before)


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and "float8" in str(out.dtype):
            self.counts["to float8"] += 1
        return out
