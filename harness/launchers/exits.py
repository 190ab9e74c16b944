"""How processes end that are not this one's children: the kernel says when through a pidfd, and mostly how."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from harness.launchers.processes import alive

_INFO_SIZES = (72, 64, 80)
"""Bytes of `struct pidfd_info` in versions of Linux that know exit statuses."""
_INFO_EXIT = 1 << 3


class Exits:
    """Waits for the ends of processes, by their ids."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, int] = {}  # pidfd -> process id
        self._unwatched: set[int] = set()  # where there are no pidfds

    def add(self, pid: int) -> None:
        """Wait for the end of this one too; it may have come already."""
        try:
            descriptor = os.pidfd_open(pid) if sys.platform == "linux" else None
        except OSError:
            descriptor = None
        if descriptor is None:
            self._unwatched.add(pid)
        else:
            self._watched[descriptor] = pid
            self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout: float) -> dict[int, int | None]:
        """Sleep until one ends or `timeout` s have passed.

        Returns:
            Process id -> exit status, minus the number of the signal that ended it, None if nobody knows.
        """
        ended: dict[int, int | None] = {pid: None for pid in self._unwatched if not alive(pid)}
        self._unwatched -= ended.keys()
        if not self._watched:
            time.sleep(0 if ended else timeout)
            return ended
        for descriptor, _ in self._poll.poll(0 if ended else timeout * 1000):
            pid = self._watched.pop(descriptor)
            self._poll.unregister(descriptor)
            ended[pid] = status_of(pid, descriptor)
            os.close(descriptor)
        return ended

    def close(self) -> None:
        """Wait for none any more."""
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()


def status_of(pid: int, descriptor: int) -> int | None:
    """How a process ended: from what is left of it until its parent has asked, or from the kernel (Linux 6.15)."""
    with contextlib.suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state in "ZX":
            return _decoded(int(rest[-1]))
    return next((status for status in _asked(descriptor, _INFO_SIZES) if status is not None), None)


def _asked(descriptor: int, sizes: Iterable[int]) -> Iterable[int | None]:
    """PIDFD_GET_INFO, _IOWR(0xFF, 11, struct pidfd_info): https://man7.org/linux/man-pages/man2/pidfd_open.2.html"""
    for size in sizes:
        info = bytearray(struct.pack("<Q", _INFO_EXIT) + bytes(size - 8))
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, (3 << 30) | (size << 16) | (0xFF << 8) | 11, info)
            if struct.unpack_from("<Q", info)[0] & _INFO_EXIT:
                yield _decoded(struct.unpack_from("<i", info, 60)[0])


def _decoded(status: int) -> int:
    """As waitpid tells it -> as subprocess does."""
    return -(status & 0x7F) if status & 0x7F else status >> 8
