"""What runs in ranks in place of `harness.rank.train`: collectives as they are on devices, on gloo."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from harness.launchers.job import Job
from harness.rank import train
from strategies import collectives, flat, zero3


def train_with_native_collectives(job: Job, rank: int) -> None:
    """With the collectives of the backend, which gloo has too, instead of exchanges point to point."""
    _native()
    train(job, rank)


def train_with_late_collectives(job: Job, rank: int) -> None:
    """Likewise, and nothing is sent before somebody waits, as on a stream that is far behind; until then what others
    will have written is no number. A buffer that is written to while it is under way ends the rank."""
    _native()
    _late()
    train(job, rank)


def _native() -> None:
    for module in (collectives, zero3):
        module.exchanges_chunks = lambda group: False  # type: ignore[attr-defined]


class _Late:
    def __init__(self, buffer: torch.Tensor, run: Any) -> None:
        self._buffer, self._copy, self._run, self._result = buffer, buffer.clone(), run, None

    def wait(self) -> Any:
        if self._result is None:
            same = torch.equal(self._buffer.nan_to_num(-1.0), self._copy.nan_to_num(-1.0))
            assert same, "a buffer was written to while it was under way"
            self._result = self._run()
        return self._result


def _late() -> None:
    scatter, gather = flat.reduce_scatter, flat.all_gather

    def late_scatter(buffer: torch.Tensor, group: dist.ProcessGroup, tag: int = 0) -> _Late:
        return _Late(buffer, lambda: scatter(buffer, group, tag).wait())

    def late_gather(buffer: torch.Tensor, group: dist.ProcessGroup, tag: int = 0) -> _Late:
        mine = buffer.chunk(dist.get_world_size(group))[dist.get_rank(group)]
        with torch.no_grad():
            for chunk in buffer.chunk(dist.get_world_size(group)):
                if chunk.data_ptr() != mine.data_ptr():
                    chunk.fill_(float("nan"))
        return _Late(mine, lambda: gather(buffer, group, tag).wait())

    flat.reduce_scatter, flat.all_gather = late_scatter, late_gather  # type: ignore[assignment]
