"""Ranks on this machine, forked from a server that has everything imported already (multiprocessing's forkserver)."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from typing import Any

from harness.launchers.base import Launcher, RankExit, Ranks
from harness.trial.job import Job

ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    # Ranks share this machine's memory; glibc's thresholds adapt to what a process did before, which differs between
    # plans. Fixed, every trial pays the same for memory: blocks up to 64 MiB are reused, larger ones given back.
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "2",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""What the server and its ranks find in their environment, unless the user set it."""


class LocalLauncher(Launcher):
    """Keeps one fork server for all trials."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["harness.launchers.preload"])

    def warm_up(self) -> None:
        with _environment():
            forkserver.ensure_running()

    def start(self, job: Job, target: Callable[[Any, int], None] | None = None) -> Ranks:
        self.warm_up()
        processes = [
            self._context.Process(target=_run, args=(target, job, rank), daemon=True) for rank in range(job.world_size)
        ]
        for process in processes:
            process.start()
        return LocalRanks(processes)

    def close(self) -> None:
        server: Any = forkserver._forkserver  # it offers no public way to end it early
        if server._forkserver_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server._forkserver_pid, signal.SIGTERM)  # it may be importing still, which takes seconds
        server._stop()


def _run(target: Callable[[Any, int], None] | None, job: Job, rank: int) -> None:
    os.setsid()  # a group of its own, so that whatever the rank starts can be ended with it
    _die_with_parent()
    # The server ends when nobody holds this pipe; in the hands of ranks it would outlive a parent that was killed.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    from harness.trial import rank as rank_side

    (target or rank_side.main)(job, rank)


def _die_with_parent() -> None:
    """Ask the kernel to kill this rank when the fork server ends, however it ends (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def _environment() -> Any:
    before = dict(os.environ)
    # The server must find what this process finds, wherever it was started from.
    os.environ.update(
        {**ENVIRONMENT, **before, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class LocalRanks(Ranks):
    """Processes of this machine, each the leader of a process group."""

    def __init__(self, processes: Sequence[BaseProcess]) -> None:
        self._processes = dict(enumerate(processes))

    @property
    def running(self) -> frozenset[int]:
        return frozenset(self._processes)

    def pids(self) -> dict[int, int]:
        return {rank: process.pid for rank, process in self._processes.items() if process.pid}

    def wait(self, timeout: float) -> Sequence[RankExit]:
        connection.wait([process.sentinel for process in self._processes.values()], timeout)
        ended = [rank for rank, process in self._processes.items() if not process.is_alive()]
        exits = []
        for rank in ended:
            process = self._processes.pop(rank)
            process.join()
            exits.append(RankExit(rank, process.exitcode or 0))
            _kill_group(process.pid)  # what the rank itself started must not outlive it
        return exits

    def kill(self) -> None:
        for process in self._processes.values():
            _kill_group(process.pid)
        for process in self._processes.values():
            process.kill()
            process.join()
        self._processes.clear()


def _kill_group(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of it is left
            os.killpg(pid, signal.SIGKILL)
