"""What ranks print: read through named pipes as it comes, its beginning and end kept in memory, never on a disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.launchers.job import Launch

KEPT = 16 << 10
"""Bytes that are kept of the beginning of a rank's output, and as many of its end."""
PIPE = 1 << 20
"""Bytes that a rank can print while the parent looks away, where the kernel lets a pipe be so large."""


class Kept:
    """The beginning and the end of a stream."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that came in."""
        self._head, self._tail = b"", b""

    def add(self, data: bytes) -> None:
        """More has come in."""
        self.size += len(data)
        room = KEPT - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[room:])[-KEPT:]

    def text(self) -> str:
        """What was kept, with the number of bytes that were not."""
        left_out = self.size - len(self._head) - len(self._tail)
        gap = f"\n... {left_out} bytes left out ...\n" if left_out else ""
        return self._head.decode(errors="replace") + gap + self._tail.decode(errors="replace")


class Outputs:
    """A named pipe for each rank's output, or for a command's, and a thread that empties them. A context manager.

    A pipe holds little, so a rank that prints without end is slowed down to what the thread can read and fills
    neither disk nor memory; a file, looked at as often as the parent looks, would grow by gigabytes between two looks.
    """

    def __init__(self, job: Launch) -> None:
        self._paths = job.outputs()
        self.kept = [Kept() for _ in self._paths]
        """One for each pipe; complete when the context is left."""
        self._selector = selectors.DefaultSelector()
        self._pipes: list[int] = []
        self._thread = threading.Thread(target=self._read, name="rank output", daemon=True)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._asleep, self._wake = os.pipe()
            self._pipes += [self._asleep, self._wake]
            self._selector.register(self._asleep, selectors.EVENT_READ)
            for path, kept in zip(self._paths, self.kept, strict=True):
                self._selector.register(self._open(path), selectors.EVENT_READ, kept)
            self._thread.start()
            undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        os.write(self._wake, b"!")
        self._thread.join()
        self._close()

    def _open(self, path: Path) -> int:
        os.mkfifo(path, 0o600)
        # Open for writing too: there is always a writer then, and the pipe never reports that its last one has left.
        pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._pipes.append(pipe)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # this user's pipes take as much as they may already
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
        return pipe

    def _read(self) -> None:
        awake = True
        while awake:
            for key, _ in self._selector.select():
                awake &= key.fd != self._asleep
                if isinstance(key.data, Kept):
                    _take(key.fd, key.data)
        for key in self._selector.get_map().values():  # what the ranks printed last; a pipe holds no more than this
            if isinstance(key.data, Kept):
                _take(key.fd, key.data)

    def _close(self) -> None:
        self._selector.close()
        for pipe in self._pipes:
            os.close(pipe)


def _take(pipe: int, kept: Kept) -> None:
    with contextlib.suppress(BlockingIOError):  # there was nothing
        kept.add(os.read(pipe, PIPE))
