"""Step times without a synchronisation per step."""

from __future__ import annotations

import time
from typing import Protocol

import torch


class Clock(Protocol):
    """Marks the ends of steps."""

    immediate: bool
    """Whether a mark is already past when `mark` returns, so that a step's numbers can be read at once."""

    def restart(self) -> None:
        """A window opens now; what was marked before is forgotten."""

    def mark(self) -> None:
        """The work issued so far ends here: one step."""

    def finished(self) -> list[float]:
        """Seconds of the steps since the window opened that are surely over, as many on every rank; does not wait."""

    def all(self) -> list[float]:
        """Seconds of every step since the window opened; waits until the last mark is reached."""


class HostClock:
    """For devices whose work is done when the call returns."""

    immediate = True

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._last = time.perf_counter()
        self._times: list[float] = []

    def mark(self) -> None:
        now = time.perf_counter()
        self._times.append(now - self._last)
        self._last = now

    def finished(self) -> list[float]:
        return self._times

    def all(self) -> list[float]:
        return self._times


class DeviceClock:
    """Events in the device's stream. The host may run `AHEAD` steps ahead, so a hang still shows as silence."""

    immediate = False
    AHEAD = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.Event] = []
        self._times: list[float] = []

    def restart(self) -> None:
        self._events, self._times = [self._event()], []

    def mark(self) -> None:
        self._events.append(self._event())
        if len(self._events) > self.AHEAD:
            self._events[-1 - self.AHEAD].synchronize()

    def finished(self) -> list[float]:
        return self._until(len(self._events) - 1 - self.AHEAD)

    def all(self) -> list[float]:
        self._events[-1].synchronize()
        return self._until(len(self._events) - 1)

    def _event(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event

    def _until(self, count: int) -> list[float]:
        for number in range(len(self._times), count):
            self._times.append(self._events[number].elapsed_time(self._events[number + 1]) / 1000)
        return self._times


def clock_for(device: torch.device) -> Clock:
    """The clock that suits a device."""
    return HostClock() if device.type == "cpu" else DeviceClock(device)
