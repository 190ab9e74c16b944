"""Numbers of a step that a device has not computed yet: read once it has, without ever waiting for it."""

from __future__ import annotations

import sys
from typing import Any


def here(value: Any) -> Any:
    """What this rank holds of a tensor, without asking others: None of a DTensor that is not whole here."""
    placements = getattr(value, "placements", None)
    if placements is None:
        return value
    return value.to_local() if all(each.is_replicate() for each in placements) else None


def soon(value: Any) -> Any:
    """Something that `float` can be taken of later: a number, or memory of the host that a device will have filled."""
    if value is None or isinstance(value, (int, float)):
        return value
    torch = sys.modules["torch"]
    if not isinstance(value, torch.Tensor):
        return float(value)  # such as numpy's
    if type(value) is not torch.Tensor:
        value = here(value)
        if value is None:
            return None
    if value.is_cpu:
        return value.item()
    value = value.detach()
    host = torch.empty((), dtype=torch.float64, pin_memory=True)
    return host.copy_(value.reshape(()), non_blocking=True)


class Mark:
    """A moment on a device's own clock, between what was given to it before and after."""

    def __init__(self, device: Any) -> None:
        self._event = sys.modules["torch"].Event(device, enable_timing=True)
        self._event.record()

    @property
    def passed(self) -> bool:
        """Whether the device has come so far."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Until it has."""
        self._event.synchronize()

    def since(self, other: Mark) -> float:
        """Seconds since an earlier one; both must have passed."""
        return float(other._event.elapsed_time(self._event)) / 1000


class Memory:
    """What this process holds: of its device, or else of the machine beyond what it held as torch was imported."""

    def __init__(self) -> None:
        self.held = self._status("VmRSS:")

    def now(self, device: Any) -> int:
        """Bytes held."""
        if device is None:
            return self._status("VmRSS:") - self.held
        return int(_module(device).memory_allocated(device))

    def peaks(self, device: Any) -> dict[str, int]:
        """Most bytes held so far, and reserved by the device's allocator."""
        if device is None:
            return {"peak_memory_bytes": max(0, self._status("VmHWM:") - self.held)}
        module = _module(device)
        allocated, reserved = module.max_memory_allocated(device), module.max_memory_reserved(device)
        return {"peak_memory_bytes": int(allocated), "peak_reserved_bytes": int(reserved)}

    @staticmethod
    def _status(name: str) -> int:
        """Bytes in a line of /proc/self/status; ru_maxrss would begin with what the launcher held as it forked."""
        try:
            with open("/proc/self/status", "rb") as file:
                for line in file:
                    if line.startswith(name.encode()):
                        return int(line.split()[1]) << 10
        except OSError:
            import resource

            unit = 1 if sys.platform == "darwin" else 1 << 10
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return 0


def _module(device: Any) -> Any:
    return sys.modules["torch"].get_device_module(device)


def device_of(root: Any) -> Any:
    """The device that a tensor lies on; None for the CPU."""
    device = getattr(root, "device", None)
    return None if device is None or device.type in ("cpu", "meta") else device


def capturing() -> bool:
    """Whether what is given to the device is being recorded as a graph, not run."""
    cuda = sys.modules["torch"].cuda
    return bool(cuda.is_available() and cuda.is_initialized() and cuda.is_current_stream_capturing())
