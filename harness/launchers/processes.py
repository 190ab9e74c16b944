"""What becomes of processes: who inherits orphans, who dies with whom, and ending everything that a trial started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

import psutil

PATIENCE = 5.0
"""How long killed processes may take to vanish, in s; one that waits for a broken device never does."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent has ended, daemons too (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however that ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_first(pid: int | None = None) -> None:
    """Have the kernel choose this process, or another, not who watches it, when memory runs out (Linux)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid or 'self'}/oom_score_adj", "w") as file:
        file.write("1000")


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(option, value)


def kill_group(pid: int | None) -> None:
    """End every process of a group."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of it is left
            os.killpg(pid, signal.SIGKILL)


def kill_below(pid: int) -> None:
    """End every descendant of a process; what forks meanwhile is met in the next round."""
    end = time.monotonic() + PATIENCE
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        while (left := [p for p in parent.children(recursive=True) if _alive(p)]) and time.monotonic() < end:
            _kill(left)


def kill_marked(name: str, value: str) -> None:
    """End every process that was started with this environment variable and whose parent is not this one."""
    end = time.monotonic() + PATIENCE
    while (left := [p for p in psutil.process_iter() if _marked(p, name, value)]) and time.monotonic() < end:
        _kill(left)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=0.1)


def alive(pid: int | None) -> bool:
    """Whether there is such a process and it has not ended."""
    with contextlib.suppress(psutil.Error):
        return pid is not None and _alive(psutil.Process(pid))
    return False


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _marked(process: psutil.Process, name: str, value: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):  # not ours to look at, or gone
        ours = process.pid == os.getpid() or process.ppid() == os.getpid()
        return not ours and process.environ().get(name) == value and _alive(process)
    return False
