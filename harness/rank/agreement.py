"""How ranks decide together, while they run freely, that a window has seen enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Agreement(Generic[T]):
    """Every rank comes to the same decision from the slowest rank's step times.

    At each turn the times of the last steps are sent to be compared, and those of the turn before, which have long
    arrived, are looked at. So nobody waits for the others' present: a barrier would hide what overlapped
    communication waits for.

    Args:
        decide: from the slowest rank's times so far to a decision, or None to go on; a pure function.
        group: of all ranks, on the CPU; None if there is one rank.
    """

    def __init__(self, decide: Callable[[Sequence[float]], T | None], group: dist.ProcessGroup | None) -> None:
        self._decide, self._group = decide, group
        self._slowest: list[float] = []
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._sent = 0

    def turn(self, times: Sequence[float]) -> T | None:
        """The decision, if there is one.

        Args:
            times: of the steps this rank has finished since the window opened, as many as on every other rank.
        """
        if self._group is None:
            return self._decide(times)
        self.close()
        decision = self._decide(self._slowest)
        if decision is None and len(times) > self._sent:
            latest = torch.tensor(times[self._sent :], dtype=torch.float64)
            self._sent = len(times)
            self._pending = dist.all_reduce(latest, dist.ReduceOp.MAX, self._group, async_op=True), latest
        return decision

    def close(self) -> None:
        """Receive what was sent last."""
        if self._pending is not None:
            work, latest = self._pending
            work.wait()
            self._slowest += latest.tolist()
            self._pending = None
