"""How a watched process tells what it sees, in the format of `harness.launchers.events`, and how it is ended."""

from __future__ import annotations

import faulthandler
import json
import math
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

OWNER = "HARNESS_OBSERVED_RANK"
"""Environment variable: which process the rank in the environment belongs to, as rank:pid."""
SETTINGS = "HARNESS_OBSERVE"
"""Environment variable: path of a JSON file, see `injection.Settings`; without it nothing happens."""
AT_ONCE = 100
"""Steps that are written as they come; later ones are written together where they are short."""
TOGETHER_S = 0.02
"""How long those may wait, in s."""
FOREVER = 2**62
PARKED_S = 60.0
"""How long a rank that has taken its last step waits to be ended, in s; then it leaves by itself."""
STACKS_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR1) - 3
"""Asks for the Python stacks; trainers and schedulers use SIGUSR1 themselves."""
DEVICE_IS_FULL = ("out of memory", "cuda failure 2", "alloc_failed")
"""Of messages of the driver, NCCL, cuBLAS and cuDNN, which have no exception type of their own."""


def _json(value: Any) -> str:
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'"{value}"'
    return repr(value) if math.isfinite(value) else json.dumps(float(value))


def who() -> tuple[int, int]:
    """(rank, number of ranks) of this process, as far as it is known by now."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    # What schedulers say stands in every shell of an allocation too, ranks or not: a group tells of theirs.
    return int(os.environ.get("RANK") or "0"), int(os.environ.get("WORLD_SIZE") or "1")


def launched_as_rank() -> bool:
    """Whether a launcher said which rank this process is, and not a rank that it is one's helper."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    return not _inherited()


def own_rank() -> None:
    """Remember in what this process hands down that the rank of its environment is its own."""
    if "RANK" in os.environ and not _inherited():
        os.environ[OWNER] = f"{os.environ['RANK']}:{os.getpid()}"


def _inherited() -> bool:
    """Whether the rank in the environment is that of a process further up."""
    rank, _, pid = os.environ.get(OWNER, "").rpartition(":")
    return rank == os.environ.get("RANK") and pid != str(os.getpid())


class Teller:
    """Writes the events of one rank; a line is written with one system call, so a killed rank leaves whole lines.

    Args:
        folder: where; a rank's file is called after it. Who comes second as the same rank is a stranger.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pid = os.getpid()
        self.rank: int | None = None
        self._file: int | None = None
        self._lines: list[str] = []
        self._steps, self._written = 0, 0.0
        self._control: mmap.mmap | None = None

    @property
    def open(self) -> bool:
        """Whether this process has shown itself."""
        return self._file is not None

    def begin(self, **fields: Any) -> None:
        """Show that this process is a rank. From now on its end is noticed, and it ends with whoever watches."""
        if self._file is not None or os.getpid() != self.pid:
            return
        self.rank, world = who()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(os.path.join(self.folder, f"rank{self.rank}.events"), flags | os.O_EXCL, 0o600)
        except FileExistsError:
            self._file = os.open(os.path.join(self.folder, f"stranger{self.pid}.events"), flags, 0o600)
        self.write("who", rank=self.rank, world=world, pid=self.pid, argv=sys.argv[:8])
        self.write("phase", name="build", **fields)
        stacks = os.open(os.path.join(self.folder, f"rank{self.rank}.stacks"), flags, 0o600)
        faulthandler.register(STACKS_SIGNAL, stacks, all_threads=True)
        self._end_with_the_watching()

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event; fields must be JSON values."""
        if self._file is not None and os.getpid() == self.pid:
            self._lines.append(json.dumps({"kind": kind, "t": time.monotonic(), **fields}))
            self._flush(time.monotonic())

    def step(self, fields: Mapping[str, Any]) -> None:
        """Append the event of a step: numbers, truths and None, and a phase; those of short steps are written together.

        A process that is killed takes the steps of a moment along with it.
        """
        if self._file is None or os.getpid() != self.pid:
            return
        now = time.monotonic()
        # json.dumps would take as long as everything else that is done of a step.
        told = ", ".join([f'"{name}": {_json(value)}' for name, value in fields.items()])
        self._lines.append(f'{{"kind": "step", "t": {now}, {told}}}')
        self._steps += 1
        if self._steps < AT_ONCE or now - self._written > TOGETHER_S:
            self._flush(now)

    def _flush(self, now: float) -> None:
        self._written = now
        lines, self._lines = self._lines, []
        if self._file is not None:
            os.write(self._file, "\n{}\n".format("\n".join(lines)).encode())

    def error(self, error: BaseException) -> None:
        """The exception that ends this rank, by its type."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        message = str(error).strip() or type(error).__name__
        name = type(error).__name__
        self.write("error", type=name, message=message[:2000], traceback=text[-8000:], outcome=outcome_of(error))

    def last_step(self) -> int:
        """How many steps this rank takes, as announced by whoever watches, who may change it at any time."""
        if self._control is None:
            with open(os.path.join(self.folder, "control"), "r+b") as file:
                self._control = mmap.mmap(file.fileno(), 8)
        return int(struct.unpack("<q", self._control[:8])[0])

    def park(self) -> None:
        """Wait to be ended: nothing of the script's runs any more, neither handlers nor checkpoints at its end."""
        time.sleep(PARKED_S)
        os._exit(0)

    def _end_with_the_watching(self) -> None:
        """Have the kernel kill this process when the pipe that the watching process holds loses its writer (Linux).

        No thread is needed: with one more of them Python would warn of every fork of a data loader.
        """
        if sys.platform != "linux":
            return
        import fcntl

        self._alive = os.open(os.path.join(self.folder, "alive"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._alive, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._alive, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self._alive, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
        # Whoever went before now is not told of any more: but the lock is free then.
        try:
            watched = os.open(os.path.join(self.folder, "watched"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.flock(watched, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(watched)
            return
        os.kill(os.getpid(), signal.SIGKILL)


def outcome_of(error: BaseException) -> str:
    """What kind of end an exception is: "oom_device", "oom_host" or "crash"."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "oom_device"
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    if isinstance(error, MemoryError) or "defaultcpuallocator" in text:
        return "oom_host"
    if ("cuda" in text or "hip" in text or "cu" in text) and any(words in text for words in DEVICE_IS_FULL):
        return "oom_device"
    return "crash"


def complain() -> None:
    """Write down what went wrong in here, for whoever watches; the script goes on."""
    path = os.environ.get(SETTINGS, "")
    try:
        with open(os.path.join(os.path.dirname(path), f"trouble-{os.getpid()}"), "a") as file:
            traceback.print_exc(file=file)
    except OSError:
        pass  # nobody is there to be told
