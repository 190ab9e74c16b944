"""What runs in ranks to see which tensors are alive: by walking all of them, not by asking an engine."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from harness.launchers.job import Job
from harness.plan import Plan
from harness.rank.main import build, join
from harness.rank.observe import BUFFERS, Observer
from harness.workloads.workload import Workload
from strategies import Facts

CPU = torch.device("cpu")
STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Batch(Job):
    """Several plans for the same ranks, one after the other; a launch for each would take longer than its steps."""

    plans: tuple[tuple[Workload, Plan, Facts], ...]

    def found_of(self, rank: int) -> Path:
        """Where a rank writes what it has seen of each plan."""
        return self.folder / f"rank{rank}.json"


def write_down(batch: Batch, rank: int) -> None:
    """Train some steps of each plan; which bytes are alive after the build, between steps, and when most are."""
    torch.set_num_threads(batch.threads)
    if batch.world_size > 1:
        join(batch, rank, CPU)
    found = []
    for workload, plan, facts in batch.plans:
        gc.collect()
        gc.freeze()  # what is there already, the modules above all, is neither collected nor walked again
        found.append(_seen(workload, plan, facts))
    batch.found_of(rank).write_text(json.dumps(found))
    if batch.world_size > 1:
        dist.barrier()


def _seen(workload: Workload, plan: Plan, facts: Facts) -> dict[str, Any]:
    before = _alive()
    training = build(workload, plan, facts, CPU)
    found: dict[str, Any] = {"built": _bytes(_alive(), before)}
    samples = workload.samples(0, np.array(training.sample_indices))
    for step in range(STEPS):
        training.step(step, samples)
    training.engine.drain()
    between = _alive()
    found["between"] = _bytes(between, before) - sum(t.untyped_storage().nbytes() for t in samples.values())
    found["small"] = sum(size for key, (size, itemsize) in between.items() if itemsize == 1 and key not in before)
    operators = _Operators()
    ours = [tensor for tensor in _plain() if tensor.untyped_storage()._cdata not in before]
    with operators, Observer({BUFFERS: ours}) as observer:
        training.step(STEPS, samples)
        training.engine.drain()
    found["peak"] = sum(observer.at_peak().values())
    found["operators"] = operators.counts
    found["sent"] = {name: sent for name, (sent, _) in observer.sent.items()}
    return found


def _alive() -> dict[int, tuple[int, int]]:
    """Storage -> (bytes, bytes of an element) of every plain tensor that is not on the meta device."""
    gc.collect()
    return {t.untyped_storage()._cdata: (t.untyped_storage().nbytes(), t.element_size()) for t in _plain()}


def _plain() -> list[torch.Tensor]:
    return [t for t in _tensors() if t.device.type == "cpu" and not is_traceable_wrapper_subclass(t)]


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
