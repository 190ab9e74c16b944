"""What the kernel lets this process have: its control groups' limits, use, pressure and kills, in both versions.

https://docs.kernel.org/admin-guide/cgroup-v2.html, and of version 1 https://docs.kernel.org/admin-guide/cgroup-v1/. A
limit of any group around a process holds for it too. The CPUs of its cpuset need no look: affinity has them already.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Files with a group's limit, in version 2 and 1; so are the others."""
_USES = ("memory.current", "memory.usage_in_bytes")
_KILLS = ("memory.events", "memory.oom_control")
_RECLAIMED = ("inactive_file", "active_file", "slab_reclaimable")
_NOT_YET = ("file_dirty", "file_writeback", "dirty", "writeback")

Mount = tuple[set[str], str, Path]
"""Controllers ("" for version 2), the group that is seen at the mount point, the mount point."""


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the process's control group and of every group around it, in either version of the interface.

    Args:
        controller: "memory" or "cpu".
        root: where /proc and /sys are looked for.
    """
    mounts = list(_mounts(root))
    for line in text(root / "proc/self/cgroup", "").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            yield from _around(group, _mount_of(controller if controllers else "", mounts, root))


def _around(group: str, mount: tuple[str, Path]) -> Iterator[Path]:
    """From a group up to what is mounted."""
    seen, point = mount
    # Within a container the mount may begin at its own group, whose path is told from the host's root all the same.
    within = os.path.relpath(group, seen) if group.startswith(seen) else "."
    folder = point / within if not within.startswith("..") else point
    while folder != point:
        yield folder
        folder = folder.parent
    yield point


def _mount_of(controller: str, mounts: list[Mount], root: Path) -> tuple[str, Path]:
    """(the group seen there, mount point) of a controller, "" being version 2."""
    usual = ("/", root / "sys/fs/cgroup" / controller)
    return next(((seen, point) for names, seen, point in mounts if controller in names), usual)


def _mounts(root: Path) -> Iterator[Mount]:
    """https://docs.kernel.org/filesystems/proc.html, /proc/PID/mountinfo"""
    for line in text(root / "proc/self/mountinfo", "").splitlines():
        fields, _, beyond = line.partition(" - ")
        kind, _, options = beyond.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, seen, point, *_ = fields.split(" ")
            names = {""} if kind == "cgroup2" else set(options.replace(",", " ").split())
            yield names, _unescaped(seen), root / _unescaped(point).lstrip("/")


def _unescaped(path: str) -> str:
    """Spaces and the like stand as octal numbers there."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")


# -- processor


def cpu_quotas(root: Path = Path("/")) -> list[float]:
    """Cores' worth of time that each group grants; groups without a limit are left out."""
    quotas = []
    for group in control_groups("cpu", root):
        v2 = text(group / "cpu.max", "").split()
        quota, period = v2 if v2 else (text(group / "cpu.cfs_quota_us", ""), text(group / "cpu.cfs_period_us", ""))
        if quota.isdecimal() and period.isdecimal():  # "max" and -1 set no limit
            quotas.append(int(quota) / int(period))
    return quotas


# -- memory


def memory_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that each group may hold; groups without a limit are left out."""
    found = (_first_number(group, MEMORY_LIMITS) for group in control_groups("memory", root))
    return [limit for limit in found if limit is not None]


def available_bytes() -> int:
    """Memory that processes here can still take without swapping: the machine's, or less if a group limits them."""
    machine = psutil.virtual_memory()
    left = [int(machine.available)]
    for group in control_groups("memory"):
        limit, used = _first_number(group, MEMORY_LIMITS), _first_number(group, _USES)
        if limit is not None and used is not None and limit < machine.total:
            left.append(max(0, min(limit, limit - used + _reclaimable(group))))
    return min(left)


def memory_pressure(root: Path = Path("/")) -> float | None:
    """Share of the last ten seconds in which every process waited for memory, in the worst group around this one; None
    where the kernel does not say (https://docs.kernel.org/accounting/psi.html)."""
    files = [group / "memory.pressure" for group in control_groups("memory", root)] + [root / "proc/pressure/memory"]
    shares = []
    for file in files:
        for line in text(file, "").splitlines():
            kind, *fields = line.split()
            if kind == "full":
                shares.append(float(dict(field.split("=") for field in fields)["avg10"]) / 100)
    return max(shares, default=None)


def oom_kills(group: Path) -> int:
    """Processes of a group that the kernel's out-of-memory killer has ended."""
    for name in _KILLS:
        for line in text(group / name, "").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _first_number(group: Path, names: tuple[str, ...]) -> int | None:
    """The number in the first of these files that has one; version 2 writes "max" for none."""
    return next((int(found) for name in names if (found := text(group / name, "")).isdecimal()), None)


def _reclaimable(group: Path) -> int:
    """Bytes that the kernel takes back before it kills: cached files, but for what it must write first, and slabs."""
    found: dict[str, int] = {}
    for line in text(group / "memory.stat", "").splitlines():
        with contextlib.suppress(ValueError):
            name, value = line.split()
            found[name] = int(value)

    def total(name: str) -> int:  # version 1 counts the groups below apart
        return found.get(f"total_{name}", found.get(name, 0))

    return max(0, sum(map(total, _RECLAIMED)) - sum(map(total, _NOT_YET)))


def text(path: Path, default: str) -> str:
    """What a file of the kernel holds, or the default if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return default
