"""Counters that a rank reads when its measured window opens and when it closes: processor time and energy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.machine import nvml as nvidia


class Meter(Protocol):
    """A source of energy readings."""

    def joules(self) -> float | None:
        """Energy used since some moment in the past, in J; None if it cannot be read."""


class NvmlMeter:
    """The energy counter of one device (Volta and later).

    Args:
        uuid: of the device, as NVML or torch writes it.
        nvml: a module with pynvml's functions; None takes the installed one.
    """

    def __init__(self, uuid: str, nvml: Any = None) -> None:
        self._session = ExitStack()
        self._nvml = self._session.enter_context(nvidia.session(nvml))
        self._handle = nvidia.of_uuid(self._nvml, uuid, 0)

    def joules(self) -> float | None:
        return None if self._handle is None else nvidia.energy_j(self._nvml, self._handle)


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text().strip()
    except OSError:
        return ""


class RaplMeter:
    """The processor packages' energy counters in Linux's power capping interface, often readable by root alone.

    https://docs.kernel.org/power/powercap/powercap.html. A package's counter starts anew at max_energy_range_uj, which
    takes minutes; within a window that can happen once.

    Args:
        root: where /sys is looked for.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones = sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
        # A zone of the whole platform ("psys") contains the packages.
        self._zones = [zone for zone in self._zones if zone.name.count(":") == 1 and _name(zone) != "psys"]
        self._last: list[int] = []
        self._wrapped_uj = 0

    def joules(self) -> float | None:
        try:
            now = [int((zone / "energy_uj").read_text()) for zone in self._zones]
            for zone, before, after in zip(self._zones, self._last, now, strict=False):
                if after < before:
                    self._wrapped_uj += int((zone / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return None
        self._last = now
        return (sum(now) + self._wrapped_uj) / 1e6 if now else None


class Counters:
    """What one rank reads at both ends of its window.

    Args:
        rank: rank 0 also reads what belongs to the whole machine.
        device: of this rank.
        root: where /proc and /sys are looked for.
        nvml: a module with pynvml's functions; None takes the installed one.
    """

    def __init__(self, rank: int, device: torch.device, root: Path = Path("/"), nvml: Any = None) -> None:
        self._first, self._root = rank == 0, root
        self._meter: Meter | None = None
        if device.type == "cuda":
            self._meter = NvmlMeter(str(torch.cuda.get_device_properties(device).uuid), nvml)
        elif self._first and device.type == "cpu":
            self._meter = RaplMeter(root)

    def read(self) -> dict[str, float | None]:
        """Names of event fields -> readings.

        cpu_s           processor time of this rank and its children, in s
        busy_cpu_s      processor time of everything on the CPUs this process may use, in s; rank 0
        stolen_cpu_s    time in which the hypervisor ran something else on them, in s; rank 0
        cpus            how many they are; rank 0
        energy_j        energy since some moment in the past, in J
        """
        spent = os.times()
        found: dict[str, float | None] = {
            "cpu_s": spent.user + spent.system + spent.children_user + spent.children_system,
            "energy_j": self._meter.joules() if self._meter else None,
        }
        return found | (machine_times(self._root) if self._first else {})


def machine_times(root: Path = Path("/"), cpus: Iterable[int] | None = None) -> dict[str, float | None]:
    """Number, busy and stolen time of the CPUs this process may use, since the machine started, in s; {} outside Linux.

    https://docs.kernel.org/filesystems/proc.html, /proc/stat: user nice system idle iowait irq softirq steal
    """
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError:
        return {}
    usable = {f"cpu{number}" for number in (os.sched_getaffinity(0) if cpus is None else cpus)}
    per_second = os.sysconf("SC_CLK_TCK")
    busy = stolen = 0.0
    for name, *ticks in (line.split() for line in lines if line.startswith("cpu")):
        if name in usable:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, ticks)
            busy += (user + nice + system + irq + softirq) / per_second
            stolen += steal / per_second
    return {"busy_cpu_s": busy, "stolen_cpu_s": stolen, "cpus": len(usable)}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """What the counters have counted between two events; a reading missing from either is left out."""
    names = ("cpu_s", "busy_cpu_s", "stolen_cpu_s", "energy_j")
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: float(b) - float(a) for name, (a, b) in pairs.items() if a is not None and b is not None}


def foreign_share(before: Mapping[str, Any], after: Mapping[str, Any], wall_s: float, ranks: int = 1) -> float | None:
    """Share of the usable CPUs' time that others took meanwhile; None where the system does not say.

    Args:
        before: first reading of rank 0.
        after: the second.
        wall_s: time between them.
        ranks: how many worked alike.
    """
    spent, whole = differences(before, after), wall_s * float(after.get("cpus") or 0)
    if "busy_cpu_s" not in spent or whole <= 0:
        return None
    return max(0.0, (spent["busy_cpu_s"] - ranks * spent["cpu_s"]) / whole)
