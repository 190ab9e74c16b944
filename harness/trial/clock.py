"""Step times without a synchronisation per step."""

from __future__ import annotations

import time
from typing import Protocol

import torch


class Clock(Protocol):
    """Marks the ends of steps."""

    immediate: bool
    """Whether a mark is already past when `mark` returns, so that a step's numbers can be read at once."""

    def mark(self) -> None:
        """The work issued so far ends here."""

    def intervals(self) -> list[float]:
        """Seconds between consecutive marks since the last call; waits until the last mark is reached."""


class HostClock:
    """For devices whose work is done when the call returns."""

    immediate = True

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        self._marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        done = [later - earlier for earlier, later in zip(self._marks, self._marks[1:], strict=False)]
        self._marks = self._marks[-1:]
        return done


class DeviceClock:
    """Events in the device's stream. The host may run `AHEAD` steps ahead, so a hang still shows as silence."""

    immediate = False
    AHEAD = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.Event] = []

    def mark(self) -> None:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        self._events.append(event)
        if len(self._events) > self.AHEAD:
            self._events[-1 - self.AHEAD].synchronize()

    def intervals(self) -> list[float]:
        if self._events:
            self._events[-1].synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        done = [earlier.elapsed_time(later) / 1000 for earlier, later in pairs]
        self._events = self._events[-1:]
        return done


def clock_for(device: torch.device) -> Clock:
    """The clock that suits a device."""
    return HostClock() if device.type == "cpu" else DeviceClock(device)
