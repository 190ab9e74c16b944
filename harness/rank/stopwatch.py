"""Times of calls that all ranks make at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

SECONDS = 0.01
"""How long each operation is repeated, in s."""
FEWEST, MOST = 3, 50
"""Repetitions."""
LASTS_S = 2e-3
"""How long calls that a device is given at once must last, in s: a synchronisation takes some 15 us."""
MOST_AT_ONCE = 1 << 10
"""Most of them."""


class Stopwatch:
    """Times calls, on all ranks at once.

    Args:
        device: what is waited for.
        group: every rank makes as many calls as the first one decides; None for one rank.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self.device, self._group = device, group

    def seconds(self, call: Callable[[], object]) -> float:
        """Median seconds of a call that is repeated.

        On a device so many calls are timed at once that starting and waiting for them is nothing beside them.
        """
        call()
        at_once = 1
        if self.device.type != "cpu":
            while at_once < MOST_AT_ONCE and not self.agreed(int(self._once(call, at_once) * at_once >= LASTS_S)):
                at_once *= 2
        repeats = self.agreed(max(FEWEST, min(MOST, round(SECONDS / max(self._once(call, at_once) * at_once, 1e-7)))))
        return sorted(self._once(call, at_once) for _ in range(repeats))[repeats // 2]

    def _once(self, call: Callable[[], object], at_once: int = 1) -> float:
        """Seconds of a call, of so many in a row."""
        begin = self.now()
        for _ in range(at_once):
            call()
        return (self.now() - begin) / at_once

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def agreed(self, number_here: int) -> int:
        """The first rank's number."""
        if self._group is None:
            return number_here
        number = torch.tensor([number_here], device=self.device)
        dist.broadcast(number, 0, group=self._group)
        return int(number.item())
