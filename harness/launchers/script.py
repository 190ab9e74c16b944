"""Ranks of somebody else's script, started by a command of somebody else's launcher."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from harness.errors import InputError, MeasurementError
from harness.launchers.events import EventReader
from harness.launchers.exits import Exits
from harness.launchers.job import Launch
from harness.launchers.launcher import RankExit, Ranks
from harness.launchers.processes import die_first, kill_group, kill_marked
from harness.observe import injection
from harness.observe.telling import STACKS_SIGNAL

SHARED = Path("/dev/shm")
SHARED_PREFIXES = ("torch_", "psm_", "sem.", "nccl-", "deepspeed_")
"""What processes share there and leave behind when they are killed; other files are the script's own affair."""
MARK = "HARNESS_TRIAL"
"""Environment variable that tells everything below a command from all other processes."""


@dataclass(frozen=True, kw_only=True)
class ScriptJob(Launch):
    """One launch of a script."""

    command: tuple[str, ...]
    """Its words; no shell reads them."""
    workdir: Path
    """Where it runs."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What is added to the environment of this process."""
    observed: injection.Settings = field(default_factory=injection.Settings)
    """What its ranks' watchers are told."""

    @property
    def last_step(self) -> int:
        """How many steps every rank takes at most."""
        return self.measurement.warmup_steps + self.measurement.max_steps

    @property
    def device_type(self) -> str:
        return "cpu"  # until a rank has told: memory limits are not for scripts

    @property
    def skips_infinite_gradients(self) -> bool:
        return True  # whether a script scales its loss cannot be known; that the loss itself is not finite is seen

    @property
    def tokens_per_step(self) -> None:
        return None

    @property
    def stacks_signal(self) -> int:
        return STACKS_SIGNAL

    @property
    def output(self) -> Path:
        """Where everything below the command prints to."""
        return self.folder / "output"

    def outputs(self) -> Sequence[Path]:
        return [self.output]


def check(command: Sequence[str], workdir: Path) -> None:
    """Raises InputError if a command cannot be started, before anything is."""
    if not command:
        raise InputError(
            "there is no command; write it after --, such as: watch -- torchrun --nproc-per-node 2 train.py"
        )
    if not workdir.is_dir():
        raise InputError(f"the command cannot run in {workdir}: there is no such folder")
    if shutil.which(command[0], path=os.environ.get("PATH")) is None and not os.access(workdir / command[0], os.X_OK):
        raise InputError(f"the command cannot be started: {command[0]} is no program on PATH, and no file that may run")


class ScriptRanks(Ranks):
    """Processes that say that they are ranks of the command, and whatever else it starts.

    Args:
        job: its folder must exist, with a pipe for its output.

    Raises:
        MeasurementError: no process can be started here.
    """

    def __init__(self, job: ScriptJob) -> None:
        self._job, self._exits = job, Exits()
        self._pids: dict[int, int] = {}  # rank -> process id
        self._mark = secrets.token_hex(8)
        self.status: int | None = None
        """How the command itself ended; None while it runs."""
        temporary = job.folder / "tmp"  # what launchers leave in there goes with the trial
        temporary.mkdir()
        self._shared_before = set(map(str, SHARED.glob("*")))
        environment = {**os.environ, "TMPDIR": str(temporary), "WANDB_MODE": "disabled", **job.environment}
        environment |= injection.prepare(job.folder, job.observed, environment) | {MARK: self._mark}
        injection.announce(job.folder, job.last_step)
        # A rank that can lock this file is one that nobody watches any more.
        self._watched = os.open(job.folder / "watched", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._watched, fcntl.LOCK_EX)
        # Whoever watches holds this end alone: when it is gone, however it went, the kernel ends the ranks.
        self._alive = os.open(job.folder / "alive", os.O_RDWR | os.O_CLOEXEC)
        try:
            with open(job.output, "wb") as output:
                self._command = subprocess.Popen(
                    job.command,
                    cwd=job.workdir,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:  # ValueError: a word with a null byte
            os.close(self._alive)
            os.close(self._watched)
            raise MeasurementError(
                f"the command cannot be started: {getattr(error, 'strerror', None) or error}"
            ) from error
        try:
            die_first(self._command.pid)
            self._exits.add(self._command.pid)
        except BaseException:  # an interrupt too
            self.kill()
            raise

    @property
    def world_size(self) -> int | None:
        """Number of ranks, as soon as one has said it."""
        for path in self._job.folder.glob("rank*.events"):
            reader = EventReader(path)
            reader.poll()
            who = reader.last("who")
            if who is not None:
                return int(who["world"])
        return None

    def meet(self, rank: int, pid: int) -> None:
        """A rank has said which process it is."""
        if rank not in self._pids and self._is_ours(pid):
            self._pids[rank] = pid
            self._exits.add(pid)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process that somebody names is one of the command's: numbers mean others in a namespace."""
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                return pid == self._command.pid or _environment_of(process).get(MARK) == self._mark
            return self._command.pid in (pid, *(parent.pid for parent in process.parents()))
        except psutil.NoSuchProcess:  # it has ended, and there is nothing to be done to it
            return True
        except psutil.Error:
            return False

    @property
    def running(self) -> frozenset[int]:
        return frozenset(self._pids)

    @property
    def going(self) -> bool:
        """Whether the command, a rank of it, or anything that may become one is running."""
        return self.status is None or bool(self._pids) or self._left()

    def pids(self) -> dict[int, int]:
        return dict(self._pids)

    def cpu_s(self) -> float:
        """Processor time of everything below the command so far, in s."""
        spent = 0.0
        with contextlib.suppress(psutil.Error):  # it has just ended
            command = psutil.Process(self._command.pid)
            for process in (command, *command.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    spent += sum(process.cpu_times()[:4])  # its own, and that of children it has waited for
        return spent

    def wait(self, timeout: float) -> Sequence[RankExit]:
        ended = self._exits.wait(timeout)
        if self._command.pid in ended:
            self.status = self._command.wait()
        exits = [RankExit(rank, ended[pid]) for rank, pid in self._pids.items() if pid in ended]
        if self._pids.get(0) == self._command.pid and self._command.pid in ended:  # no launcher between
            exits = [RankExit(0, self.status) if each.rank == 0 else each for each in exits]
        for each in exits:
            del self._pids[each.rank]
        return exits

    def kill(self) -> None:
        shared = _shared_memory(self._mark) - self._shared_before
        kill_group(self._command.pid)
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._command.wait()
        kill_marked(MARK, self._mark)
        for path in shared:  # nobody else removes what killed processes had in common
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._pids.clear()
        self._exits.close()
        if self._alive >= 0:
            os.close(self._alive)
            os.close(self._watched)
            self._alive = -1

    def _left(self) -> bool:
        return any(_environment_of(process).get(MARK) == self._mark for process in psutil.process_iter())


def _environment_of(process: psutil.Process) -> Mapping[str, str]:
    with contextlib.suppress(psutil.Error, OSError):  # not ours to look at, or gone
        if process.status() != psutil.STATUS_ZOMBIE:
            found: Mapping[str, str] = process.environ()
            return found
    return {}


def _shared_memory(mark: str) -> set[str]:
    """Files in /dev/shm that processes with this mark have mapped and no others."""
    ours: set[str] = set()
    others: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace").splitlines()
            found = {line.split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line}
            if found:
                (ours if _environment_of(process).get(MARK) == mark else others).update(found)
    left = {path for path in ours - others if not path.endswith(" (deleted)")}
    return {path for path in left if Path(path).name.startswith(SHARED_PREFIXES)}
