"""Follows one trial: starts its ranks, watches deadlines and memory, and ends what must be ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from harness.launchers.events import EventReader
from harness.launchers.job import Deadlines, Job, Launch
from harness.launchers.launcher import Launcher, RankExit, Ranks
from harness.launchers.processes import alive
from harness.machine.cgroups import available_bytes
from harness.machine.rank_groups import RankGroups
from harness.rank import train
from harness.trial import stacks
from harness.trial.output import Outputs

TICK = 0.25
"""Longest sleep of the parent, in s. Ranks that end wake it at once; a busy wait would take a core from them."""
TIGHT_TICK = 0.025
"""Longest sleep while the machine's memory is getting short, in s: a rank can take gigabytes in a second."""
GRACE = 1.0
"""How long the other ranks may go on after one failed, to say what they saw, in s."""
FLOOR_SHARE, FLOOR = 0.05, 512 << 20
"""Share of the memory that is available at the launch, and bytes of it, that ranks must leave: with less a machine
begins to swap, and then to kill."""


@dataclass
class Trace:
    """Everything known of a trial when its last rank has ended."""

    job: Launch
    started: float
    """Monotonic time of the launch, in s."""
    ended: float = 0.0
    """Monotonic time when the last rank was gone."""
    readers: list[EventReader] = field(default_factory=list)
    """One for each rank."""
    exits: list[RankExit] = field(default_factory=list)
    """In the order in which they were seen; ranks killed by the parent are not among them."""
    stopped: str | None = None
    """Why the parent ended the trial: "hang", "oom_host", "interrupted", of a script "crash" too, or None."""
    stopped_reason: str | None = None
    """One sentence."""
    stopped_rank: int | None = None
    """The rank because of which it was ended, where there is one."""
    kernel_oom_kills: int = 0
    """Processes the kernel's out-of-memory killer ended meanwhile, on the whole machine."""
    rank_oom_kills: dict[int, int] = field(default_factory=dict)
    """Rank -> processes it ended of this rank's control group; empty where ranks have none."""
    outputs: list[str] = field(default_factory=list)
    """What each rank printed: its beginning and its end."""
    stacks: dict[int, str] = field(default_factory=dict)
    """Rank -> Python stack of each of its threads; only of ranks that hang."""
    exited_at: dict[int, float] = field(default_factory=dict)
    """Rank -> monotonic time at which its end was seen."""
    unending: tuple[int, ...] = ()
    """Processes that are there although they were killed."""

    def window(self) -> tuple[float, float] | None:
        """Monotonic times between which every rank measured; None if one did not."""
        opened = [e["t"] for r in self.readers for e in r.all("phase") if e["name"] == "measure"]
        closed = [float(e["closed"] if "closed" in e else e["t"]) for r in self.readers for e in r.all("done")]
        return (max(opened), min(closed)) if len(opened) == len(closed) == len(self.readers) > 0 else None

    @property
    def device_type(self) -> str:
        """What the ranks compute on."""
        return self.job.device_type

    @property
    def measured(self) -> bool:
        """Whether every rank has told all there is to tell of its window."""
        return bool(self.readers) and all(reader.last("done") for reader in self.readers)


def follow(
    launcher: Launcher,
    job: Job,
    deadlines: Deadlines,
    *,
    on_step: Callable[[int], None] | None = None,
    memory_floor: int | None = None,
) -> Trace:
    """Run a job to its end, whatever that is. An interrupt ends it too; passing it on is left to the caller.

    Args:
        launcher: starts the ranks.
        job: what they run; its folder must exist.
        deadlines: when ranks count as hanging.
        on_step: called with the number of finished steps as they come in.
        memory_floor: bytes of memory that ranks must leave to the machine; None: a share of what it has.

    Raises:
        MeasurementError: no process can be started here.
    """
    oom_before = kernel_oom_kills()
    readers = [EventReader(job.events_of(rank)) for rank in range(job.world_size)]
    trace = Trace(job, time.monotonic(), readers=readers)
    watch = Watch(trace, deadlines, on_step, memory_floor)
    limit = job.memory_limit if job.device_type == "cpu" else None
    outputs = Outputs(job)
    with outputs, RankGroups(limit) as groups:
        try:
            _run(launcher, job, watch, groups)
        except KeyboardInterrupt:
            trace.stopped, trace.stopped_reason = "interrupted", "the sweep was interrupted"
        trace.ended = time.monotonic()
        trace.rank_oom_kills = groups.oom_kills()
    for reader in trace.readers:
        reader.poll()
    trace.outputs = [kept.text() for kept in outputs.kept]
    trace.kernel_oom_kills = kernel_oom_kills() - oom_before
    return trace


def _run(launcher: Launcher, job: Job, watch: Watch, groups: RankGroups) -> None:
    """Start the ranks and stay until all are gone."""
    trace = watch.trace
    ranks = launcher.start(job, train)
    try:
        groups.add(ranks.pids())
        while ranks.running:
            ended = ranks.wait(watch.tick)
            trace.exits += ended
            trace.exited_at |= dict.fromkeys((each.rank for each in ended), time.monotonic())
            if watch.must_stop(ranks.pids()):
                end(ranks, trace)
    finally:
        if ranks.running:
            end(ranks, trace)
        ranks.kill()


def end(ranks: Ranks, trace: Trace) -> None:
    """End the ranks that run; of those that hang, keep where."""
    pids = ranks.pids()
    if trace.stopped == "hang":
        trace.stacks = stacks.collect(trace.job, pids)
    ranks.kill()
    trace.unending = tuple(pid for pid in pids.values() if alive(pid))


class Watch:
    """Decides when a trial must be ended from outside."""

    def __init__(
        self, trace: Trace, deadlines: Deadlines, on_step: Callable[[int], None] | None, memory_floor: int | None
    ) -> None:
        self.trace, self.deadlines, self.on_step = trace, deadlines, on_step
        self.memory_at_start = available_bytes()
        self.memory_floor = memory_floor if memory_floor is not None else _floor(self.memory_at_start)
        self.start = deadlines.compiling if compiles(trace.job) else deadlines.start
        """How long the first step of a rank may take to come, in s."""
        self.last_sign = [trace.started] * len(trace.readers)
        self.failed_at: float | None = None
        self.steps = 0
        self.tick = TICK
        """How long the parent may sleep until the next look, in s."""

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
        return self._failed(now) or self._hangs(now) or self._holds_too_much(pids) or self._leaves_too_little(pids)

    def _tell_progress(self) -> None:
        last = last_step(self.trace.readers[0])
        if self.on_step and last is not None and last + 1 > self.steps:
            self.steps = last + 1
            self.on_step(self.steps)

    def _failed(self, now: float) -> bool:
        if self.failed_at is None and not all(finished(e, self.trace.readers[e.rank]) for e in self.trace.exits):
            self.failed_at = now
        return self.failed_at is not None and now - self.failed_at > GRACE

    def _hangs(self, now: float) -> bool:
        late = {}
        for rank, reader in enumerate(self.trace.readers):
            ended = any(e.rank == rank for e in self.trace.exits)
            begun = last_step(reader)
            limit = self.deadlines.step if begun is not None else self.start
            since = self.last_sign[rank] if begun is not None else self.trace.started
            if not ended and now - since > limit:
                late[rank] = limit
        if not late:
            return False
        # The others may be waiting for it. By the ranks' own stamps: two signs may be seen in one look.
        rank = min(late, key=lambda each: last_stamp(self.trace.readers[each]))
        place = where(self.trace.readers[rank])
        self._stop("hang", f"rank {rank} gave no sign of life for {late[rank]:g} s {place}", rank)
        return True

    def _holds_too_much(self, pids: dict[int, int]) -> bool:
        limit = self.trace.job.memory_limit
        if limit is None or self.trace.job.device_type != "cpu":
            return False
        for rank, held in self._held(pids).items():
            if self.trace.readers[rank].last("phase") and held > limit:
                self._stop("oom_host", f"rank {rank} held {held} B where the memory limit is {limit} B", rank)
                return True
        return False

    def _leaves_too_little(self, pids: dict[int, int]) -> bool:
        """Whether the machine is about to run out of memory and ending this trial helps."""
        left = available_bytes()
        self.tick = TICK if left > 4 * self.memory_floor else TIGHT_TICK
        if left >= self.memory_floor:
            return False
        held = self._held(pids)
        if sum(held.values()) < (self.memory_at_start - left) / 2:  # others took most of it
            return False
        rank = max(held, key=lambda each: held[each])
        self._stop(
            "oom_host",
            f"rank {rank} held {held[rank]} B when the machine had {left} B of memory left, "
            f"less than the {self.memory_floor} B that are kept free",
            rank,
        )
        return True

    def _held(self, pids: dict[int, int]) -> dict[int, int]:
        """Rank -> bytes it holds beyond what it began with; ranks that ended meanwhile are missing."""
        found = {}
        for rank, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                info = psutil.Process(pid).memory_info()
                found[rank] = info.rss - getattr(info, "shared", 0) - self.trace.readers[rank].baseline()
        return found

    def _stop(self, outcome: str, reason: str, rank: int | None = None) -> None:
        self.trace.stopped, self.trace.stopped_reason, self.trace.stopped_rank = outcome, reason, rank


def compiles(job: Launch) -> bool:
    """Whether a job's first step compiles kernels, which takes minutes where none are kept from an earlier one."""
    if not isinstance(job, Job):
        return False
    on_device = job.facts.device_type != "cpu" and job.plan.get("quantization", "none") not in ("none", "float8")
    return bool(job.plan.get("compile")) or on_device


def finished(ended: RankExit, reader: EventReader) -> bool:
    """Whether a rank that ended had done all it should."""
    return ended.status == 0 and reader.last("end") is not None


def last_stamp(reader: EventReader) -> float:
    """When a rank was last heard of, by its own clock, in s; 0 if never."""
    return max((float(event["t"]) for event in reader.events), default=0.0)


def where(reader: EventReader) -> str:
    """In which phase and step a rank was last heard of, in words."""
    phase = reader.last("phase")
    step = last_step(reader)
    name = phase["name"] if phase else "launch"
    return f"in {name}" if step is None else f"in {name}, after step {step}"


def last_step(reader: EventReader) -> int | None:
    """The last step that a rank is known to have finished; on a device its numbers come later than the sign of it."""
    steps = [int(event["step"]) for kind in ("step", "beat") if (event := reader.last(kind))]
    return max(steps, default=None)


def _floor(available: int) -> int:
    """What ranks must leave of it; half at the most, or nothing could run where little is left."""
    return min(max(int(FLOOR_SHARE * available), FLOOR), available // 2)


def kernel_oom_kills() -> int:
    """Processes that the kernel's out-of-memory killer has ended on this machine since it was started."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        for line in file:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
