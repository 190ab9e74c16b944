"""Follows one trial: starts its ranks, watches deadlines and memory, and ends what must be ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from harness.launchers.base import Launcher, RankExit
from harness.trial.events import EventReader
from harness.trial.job import Deadlines, Job

TICK = 0.25
"""Longest sleep of the parent, in s. Ranks that end wake it at once; a busy wait would take a core from them."""
GRACE = 1.0
"""How long the other ranks may go on after one failed, to say what they saw, in s."""


@dataclass
class Trace:
    """Everything known of a trial when its last rank has ended."""

    job: Job
    started: float
    """Monotonic time of the launch, in s."""
    ended: float = 0.0
    """Monotonic time when the last rank was gone."""
    readers: list[EventReader] = field(default_factory=list)
    """One for each rank."""
    exits: list[RankExit] = field(default_factory=list)
    """In the order in which they were seen; ranks killed by the parent are not among them."""
    stopped: str | None = None
    """Why the parent ended the trial: "hang", "oom_host" or None."""
    stopped_reason: str | None = None
    """One sentence."""
    kernel_oom_kills: int = 0
    """Processes the kernel's out-of-memory killer ended meanwhile, on the whole machine."""


def follow(
    launcher: Launcher,
    job: Job,
    deadlines: Deadlines,
    *,
    on_step: Callable[[int], None] | None = None,
) -> Trace:
    """Run a job to its end, whatever that is.

    Args:
        launcher: starts the ranks.
        job: what they run; its folder must exist.
        deadlines: when ranks count as hanging.
        on_step: called with the number of finished steps as they come in.

    Raises:
        KeyboardInterrupt: passed on after every rank was ended.
    """
    oom_before = _kernel_oom_kills()
    readers = [EventReader(job.events_of(rank)) for rank in range(job.world_size)]
    trace = Trace(job, time.monotonic(), readers=readers)
    ranks = launcher.start(job)
    watch = _Watch(trace, deadlines, on_step)
    try:
        while ranks.running:
            trace.exits += ranks.wait(TICK)
            if watch.must_stop(ranks.pids()):
                ranks.kill()
    finally:
        ranks.kill()
        trace.ended = time.monotonic()
    for reader in trace.readers:
        reader.poll()
    trace.kernel_oom_kills = _kernel_oom_kills() - oom_before
    return trace


class _Watch:
    """Decides when a trial must be ended from outside."""

    def __init__(self, trace: Trace, deadlines: Deadlines, on_step: Callable[[int], None] | None) -> None:
        self.trace, self.deadlines, self.on_step = trace, deadlines, on_step
        self.last_sign = [trace.started] * trace.job.world_size
        self.failed_at: float | None = None
        self.steps = 0

    def must_stop(self, pids: dict[int, int]) -> bool:
        """Whether the trial must be ended now; says why in the trace.

        Args:
            pids: rank -> process id of the running ranks.
        """
        now = time.monotonic()
        for rank, reader in enumerate(self.trace.readers):
            if reader.poll():
                self.last_sign[rank] = now
        self._tell_progress()
        return self._failed(now) or self._hangs(now) or self._holds_too_much(pids)

    def _tell_progress(self) -> None:
        last = self.trace.readers[0].last("step")
        if self.on_step and last and last["step"] + 1 > self.steps:
            self.steps = last["step"] + 1
            self.on_step(self.steps)

    def _failed(self, now: float) -> bool:
        if self.failed_at is None and any(e.status for e in self.trace.exits):
            self.failed_at = now
        return self.failed_at is not None and now - self.failed_at > GRACE

    def _hangs(self, now: float) -> bool:
        for rank, reader in enumerate(self.trace.readers):
            ended = any(e.rank == rank for e in self.trace.exits)
            begun = reader.last("step") or reader.last("beat")
            limit = self.deadlines.step if begun else self.deadlines.start
            since = self.last_sign[rank] if begun else self.trace.started
            if not ended and now - since > limit:
                self._stop("hang", f"rank {rank} gave no sign of life for {limit:g} s {where(reader)}")
                return True
        return False

    def _holds_too_much(self, pids: dict[int, int]) -> bool:
        limit = self.trace.job.memory_limit
        if limit is None or self.trace.job.facts.device_type != "cpu":
            return False
        for rank, pid in pids.items():
            build = self.trace.readers[rank].last("phase")
            with contextlib.suppress(psutil.Error):
                info = psutil.Process(pid).memory_info()
                held = info.rss - getattr(info, "shared", 0) - self.trace.readers[rank].baseline()
                if build and held > limit:
                    self._stop("oom_host", f"rank {rank} held {held} B where the memory limit is {limit} B")
                    return True
        return False

    def _stop(self, outcome: str, reason: str) -> None:
        self.trace.stopped, self.trace.stopped_reason = outcome, reason


def where(reader: EventReader) -> str:
    """In which phase and step a rank was last heard of, in words."""
    phase = reader.last("phase")
    step = reader.last("step") or reader.last("beat")
    name = phase["name"] if phase else "launch"
    return f"in {name}, after step {step['step']}" if step else f"in {name}"


def _kernel_oom_kills() -> int:
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
