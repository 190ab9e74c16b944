"""The processor and the operating system, from /proc, /sys and macOS's sysctl. What a system does not show is None."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil

from harness.machine import cgroups


def cpu_model(root: Path) -> str | None:
    """As the processor calls itself."""
    lines = (line.partition(":") for line in (text(root / "proc/cpuinfo") or "").splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    if "CPU part" in facts and "model name" not in facts:  # Arm names its processors by numbers
        return f"{platform.machine()} {facts.get('CPU implementer', '')} {facts['CPU part']}"
    return facts.get("model name") or _sysctl("machdep.cpu.brand_string") or platform.machine() or None


def usable_cores(root: Path) -> int:
    """Logical cores that affinity and quotas leave to this process, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, cgroups.cpu_quotas(root))]))


def usable_physical_cores(root: Path) -> int | None:
    """Cores of which affinity leaves a thread to this process (docs.kernel.org/admin-guide/cputopology.html)."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    files = (root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list" for n in os.sched_getaffinity(0))
    siblings = {listed for file in files if (listed := text(file))}
    return len(siblings) or None


def caches(root: Path) -> dict[str, int | None]:
    """Names of fields of `Hardware` -> bytes of a core's data caches."""
    names = {"1": "l1d", "2": "l2", "3": "l3"}
    sizes = {name: _sysctl(f"hw.{name}cachesize") for name in names.values()}
    found = {f"{name}_bytes": int(size) if size else None for name, size in sizes.items()}
    for index in root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*"):
        kind, level, size = (text(index / name) for name in ("type", "level", "size"))
        if kind in ("Data", "Unified") and level in names and size and size.endswith("K"):
            found[f"{names[level]}_bytes"] = int(size[:-1]) * 1024
    return found


def frequency_mhz() -> tuple[float | None, float | None]:
    """Current frequency (mean over the cores) and the highest."""
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError, RuntimeError):  # some systems show none
        frequency = None
    return (frequency.current or None, frequency.max or None) if frequency else (None, None)


def load_1min() -> float | None:
    """Runnable processes, averaged over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def os_name() -> str | None:
    """Name and version of the operating system."""
    if version := platform.mac_ver()[0]:
        return f"macOS {version}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system() or None


def text(path: Path) -> str | None:
    """What a file holds, None if nothing."""
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    """A value of macOS's sysctl; None on every other system."""
    if platform.system() != "Darwin":
        return None
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
