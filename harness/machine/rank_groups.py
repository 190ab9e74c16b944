"""A memory control group for each rank: a hard limit where the system permits it.

https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.events), and of version 1
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes, memory.oom_control).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.machine.cgroups import MEMORY_LIMITS, control_groups, oom_kills

MARGIN = 64 << 20
"""What the kernel needs for a rank (page tables, sockets, cached files) and the harness's limit leaves out, in B."""
EMPTYING = 2.0
"""How long the kernel may take to let go of a group whose last process has ended, in s."""

_SWAP_LIMITS = ("memory.swap.max", "memory.memsw.limit_in_bytes")


@dataclass
class RankGroups:
    """A group for each rank of a trial, or none where groups cannot be made. A context manager.

    The kernel ends what outgrows its group at once, where a look from outside comes too late, and counts it. Pages that
    a rank shares with the server it was forked from are charged to the server until the rank writes to them: a group
    may hold what the rank held at its start beside the limit. The harness's own limit is watched for as without groups.
    """

    limit: int | None
    """Bytes a rank may hold beyond what it began with; None: no groups are made."""
    _groups: dict[int, Path] = field(default_factory=dict)

    def add(self, pids: Mapping[int, int]) -> None:
        """Put ranks that have just been started into groups of their own.

        Args:
            pids: rank -> process id.
        """
        home = _home() if self.limit is not None else None
        for rank, pid in pids.items() if home else ():
            with contextlib.suppress(OSError, psutil.Error):  # not permitted after all, or it ended already
                held = psutil.Process(pid).memory_info()
                group = home / f"harness-{os.getpid()}-{rank}-{secrets.token_hex(4)}"  # type: ignore[operator]
                group.mkdir()
                self._groups[rank] = group
                _limit(group, (self.limit or 0) + held.rss - getattr(held, "shared", 0) + MARGIN)
                (group / "cgroup.procs").write_text(str(pid))

    def oom_kills(self) -> dict[int, int]:
        """Rank -> processes of its group that the kernel's out-of-memory killer has ended; only those above 0."""
        counts = {rank: oom_kills(group) for rank, group in self._groups.items()}
        return {rank: count for rank, count in counts.items() if count}

    def __enter__(self) -> RankGroups:
        return self

    def __exit__(self, *error: object) -> None:
        end = time.monotonic() + EMPTYING
        for group in self._groups.values():
            while not _removed(group) and time.monotonic() < end:
                time.sleep(0.01)


def _home() -> Path | None:
    """The group closest to this process in which groups with a memory limit can be made.

    In version 2 a group that has processes of its own can have no children with limits, so its parent is tried too.
    """
    for group in control_groups("memory"):
        trial = group / f"harness-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            trial.mkdir()
        except OSError:
            continue
        usable = any((trial / name).exists() for name in MEMORY_LIMITS) and os.access(trial / "cgroup.procs", os.W_OK)
        trial.rmdir()
        if usable:
            return group
    return None


def _limit(group: Path, size: int) -> None:
    for name in MEMORY_LIMITS:
        if (group / name).exists():
            (group / name).write_text(str(size))
    for name, value in zip(_SWAP_LIMITS, (0, size), strict=True):
        if (group / name).exists():
            with contextlib.suppress(OSError):  # the kernel may not account for swap
                (group / name).write_text(str(value))


def _removed(group: Path) -> bool:
    try:
        for pid in (group / "cgroup.procs").read_text().split():  # something a rank started
            os.kill(int(pid), signal.SIGKILL)
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
