"""How a trial ended, told from exit statuses, signals, kernel counters and typed events; never from words in a log."""

from __future__ import annotations

import contextlib
import math
import signal
from dataclasses import dataclass, replace

from harness.launchers.events import EventReader
from harness.launchers.launcher import RankExit
from harness.store.records import Outcome
from harness.trial.supervise import Trace, finished, last_stamp, last_step, where


@dataclass(frozen=True)
class Ending:
    """The outcome of a trial and the evidence for it."""

    outcome: Outcome
    reason: str | None = None
    """One sentence; None if ok."""
    phase: str | None = None
    """Phase in which the first rank failed."""
    rank: int | None = None
    """The first rank that failed."""
    step: int | None = None
    """Last step that rank had finished."""


def ending_of(trace: Trace) -> Ending:
    """Classify a trial, numerics left aside.

    A rank that vanished without a word comes before ranks that raised: they raised because it vanished, unless it
    aborted after one had run out of memory, as NCCL's watchdog does. Among ranks that raised, the first one counts.
    """
    if trace.stopped == "hang" and trace.measured:
        return Ending(Outcome.OK)  # everything was measured; taking down communicators is not what is asked about
    if trace.stopped is not None:
        silent = min(_running(trace), key=lambda r: last_stamp(trace.readers[r]), default=0)
        rank = silent if trace.stopped_rank is None else trace.stopped_rank
        stopped = _ending(trace, Outcome(trace.stopped), trace.stopped_reason, rank)
        return replace(stopped, rank=None) if stopped.outcome is Outcome.INTERRUPTED else stopped  # no rank failed
    for find in (_not_finite, _out_of_memory_first, _vanished, _raised):
        ending = find(trace)
        if ending is not None:
            return ending
    return Ending(Outcome.OK)


def _running(trace: Trace) -> list[int]:
    """Ranks that the parent had to end."""
    ended = {each.rank for each in trace.exits}
    return [rank for rank in range(len(trace.readers)) if rank not in ended]


def _not_finite(trace: Trace) -> Ending | None:
    scaled = trace.job.skips_infinite_gradients  # there an infinite gradient only skips a step
    for rank, reader in enumerate(trace.readers):
        for event in reader.all("step"):
            for name in ("loss",) if scaled else ("loss", "grad_norm"):
                value = event.get(name)
                if value is not None and not math.isfinite(value):
                    return _ending(trace, Outcome.NAN, f"{name} of step {event['step']} is {value}", rank)
    return None


def _out_of_memory_first(trace: Trace) -> Ending | None:
    """A rank ran out of memory, and only then did others abort."""
    errors = [event for reader in trace.readers if (event := reader.last("error"))]
    full = [event["t"] for event in errors if event["outcome"] in (Outcome.OOM_DEVICE, Outcome.OOM_HOST)]
    gone = [
        e for e in trace.exits if not finished(e, trace.readers[e.rank]) and not trace.readers[e.rank].last("error")
    ]
    aborted = all(each.status == -signal.SIGABRT for each in gone)
    later = all(trace.exited_at.get(each.rank, 0.0) > min(full, default=0.0) for each in gone)
    return _raised(trace) if full and gone and aborted and later else None


def _vanished(trace: Trace) -> Ending | None:
    for ended in trace.exits:
        reader = trace.readers[ended.rank]
        if not finished(ended, reader) and reader.last("error") is None:
            return _ending(trace, *_of_exit(ended, trace, reader), ended.rank)
    return None


def _of_exit(ended: RankExit, trace: Trace, reader: EventReader) -> tuple[Outcome, str]:
    if ended.status is None:
        return Outcome.PREEMPTED, f"the fork server died, and with it rank {ended.rank} {where(reader)}"
    if ended.status == 0:
        return Outcome.CRASH, f"rank {ended.rank} ended {where(reader)} without having finished"
    if ended.status > 0:
        return Outcome.CRASH, f"rank {ended.rank} ended with exit status {ended.status} {where(reader)}"
    name = signal_name(-ended.status)
    if name == "SIGKILL" and (ended.rank in trace.rank_oom_kills or trace.kernel_oom_kills):
        return Outcome.OOM_HOST, f"the kernel's out-of-memory killer ended rank {ended.rank} {where(reader)}"
    if name == "SIGTERM":  # the harness never sends it; schedulers do, before they take the machine away
        return Outcome.PREEMPTED, f"SIGTERM ended rank {ended.rank} {where(reader)}"
    return Outcome.CRASH, f"{name} ended rank {ended.rank} {where(reader)}"


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals have no name."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _raised(trace: Trace) -> Ending | None:
    errors = [(event["t"], rank, event) for rank, r in enumerate(trace.readers) if (event := r.last("error"))]
    if not errors:
        return None
    _, rank, event = min(errors, key=lambda e: e[0])
    first_line = str(event["message"]).splitlines()[0]
    outcome, reason = Outcome(event["outcome"]), f"rank {rank} raised {event['type']}: {first_line}"
    if rank in trace.rank_oom_kills:  # of something it had started, and waited for
        outcome, reason = Outcome.OOM_HOST, f"{reason}, after the kernel's out-of-memory killer ended a process of it"
    return _ending(trace, outcome, reason, rank)


def _ending(trace: Trace, outcome: Outcome, reason: str | None, rank: int) -> Ending:
    reader = trace.readers[rank]
    phase = reader.last("phase")
    return Ending(outcome, reason, phase["name"] if phase else "launch", rank, last_step(reader))
