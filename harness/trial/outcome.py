"""How a trial ended, told from exit statuses, signals, kernel counters and typed events; never from words in a log."""

from __future__ import annotations

import contextlib
import math
import signal
from dataclasses import dataclass

from harness.launchers.base import RankExit
from harness.records import Outcome
from harness.trial.events import EventReader
from harness.trial.supervise import Trace, where


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

    A rank that vanished without a word comes before ranks that raised: they raised because it vanished. Among
    ranks that raised, the first one counts.
    """
    if trace.stopped is not None:
        silent = min(range(len(trace.readers)), key=lambda r: _last_time(trace.readers[r]))
        return _ending(trace, Outcome(trace.stopped), trace.stopped_reason, silent)
    for find in (_not_finite, _vanished, _raised):
        ending = find(trace)
        if ending is not None:
            return ending
    return Ending(Outcome.OK)


def _not_finite(trace: Trace) -> Ending | None:
    scaled = trace.job.plan["precision"] == "fp16"  # there an infinite gradient only skips a step
    for rank, reader in enumerate(trace.readers):
        for event in reader.all("step"):
            for name in ("loss",) if scaled else ("loss", "grad_norm"):
                value = event.get(name)
                if value is not None and not math.isfinite(value):
                    return _ending(trace, Outcome.NAN, f"{name} of step {event['step']} is {value}", rank)
    return None


def _vanished(trace: Trace) -> Ending | None:
    for ended in trace.exits:
        reader = trace.readers[ended.rank]
        finished = ended.status == 0 and reader.last("done") is not None
        if not finished and reader.last("error") is None:
            return _ending(trace, *_of_exit(ended, trace, reader), ended.rank)
    return None


def _of_exit(ended: RankExit, trace: Trace, reader: EventReader) -> tuple[Outcome, str]:
    if ended.status == 0:
        return Outcome.CRASH, f"rank {ended.rank} ended {where(reader)} without having finished"
    if ended.status > 0:
        return Outcome.CRASH, f"rank {ended.rank} ended with exit status {ended.status} {where(reader)}"
    name = _signal_name(-ended.status)
    if name == "SIGKILL" and trace.kernel_oom_kills:
        return Outcome.OOM_HOST, f"the kernel's out-of-memory killer ended rank {ended.rank} {where(reader)}"
    return Outcome.CRASH, f"{name} ended rank {ended.rank} {where(reader)}"


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return signal.Signals(number).name
    return f"signal {number}"


def _raised(trace: Trace) -> Ending | None:
    errors = [(event["t"], rank, event) for rank, r in enumerate(trace.readers) if (event := r.last("error"))]
    if not errors:
        return None
    _, rank, event = min(errors, key=lambda e: e[0])
    first_line = str(event["message"]).splitlines()[0]
    return _ending(trace, Outcome(event["outcome"]), f"rank {rank} raised {event['type']}: {first_line}", rank)


def _ending(trace: Trace, outcome: Outcome, reason: str | None, rank: int) -> Ending:
    reader = trace.readers[rank]
    phase, step = reader.last("phase"), reader.last("step")
    return Ending(outcome, reason, phase["name"] if phase else "launch", rank, step["step"] if step else None)


def _last_time(reader: EventReader) -> float:
    return max((float(event["t"]) for event in reader.events), default=0.0)
