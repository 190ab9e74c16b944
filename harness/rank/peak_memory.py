"""Memory of a rank: the device's allocator, or on a CPU the kernel's own peak of the resident set."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path
from typing import Protocol

import torch


class Memory(Protocol):
    """Peak of a window."""

    def reset_peak(self) -> None:
        """A new window begins."""

    def now(self) -> int:
        """Bytes in use."""

    def peak(self) -> int:
        """Highest use in the window, in B."""

    def reserved(self) -> int:
        """Highest amount held in the window, used or not, in B."""

    def outside(self) -> int | None:
        """What is taken of the device now beside what PyTorch's allocator holds, in B; None on a CPU."""


class DeviceMemory:
    """What PyTorch's caching allocator allocated and reserved."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reset_peak(self) -> None:
        torch.accelerator.reset_peak_memory_stats(self._device)

    def now(self) -> int:
        return int(torch.accelerator.memory_allocated(self._device))

    def peak(self) -> int:
        return int(torch.accelerator.max_memory_allocated(self._device))

    def reserved(self) -> int:
        return int(torch.accelerator.max_memory_reserved(self._device))

    def outside(self) -> int | None:
        """The driver's context, communicators, and other processes."""
        free, total = torch.accelerator.get_memory_info(self._device)
        return int(total - free - torch.accelerator.memory_reserved(self._device))


class HostMemory:
    """Resident memory beyond what the interpreter and its libraries held when the rank began.

    Linux keeps the highest resident set (VmHWM) and starts anew when told through /proc/self/clear_refs. It counts
    pages of mapped libraries, which a forked rank touches one by one, so these (RssFile) are taken off. Elsewhere
    the highest resident set since the start of the process has to serve.
    """

    def __init__(self) -> None:
        self._start = held_bytes()

    def reset_peak(self) -> None:
        with contextlib.suppress(OSError):  # then the peak since the start is reported, which is never too low
            Path("/proc/self/clear_refs").write_text("5")

    def now(self) -> int:
        return held_bytes() - self._start

    def peak(self) -> int:
        if not _STATUS.exists():
            return _maxrss() - self._start
        return max(1, _status("VmHWM") - _status("RssFile") - self._start)

    def reserved(self) -> int:
        return _status("VmHWM") if _STATUS.exists() else _maxrss()

    def outside(self) -> int | None:
        return None


_STATUS = Path("/proc/self/status")


def held_bytes() -> int:
    """Anonymous resident memory of this process; outside Linux its highest resident set so far."""
    return _status("RssAnon") if _STATUS.exists() else _maxrss()


def _status(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _maxrss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_of(device: torch.device) -> Memory:
    """The memory that matters on a device."""
    return HostMemory() if device.type == "cpu" else DeviceMemory(device)
