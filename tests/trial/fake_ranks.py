"""Trials that never ran: their events, their exits, and a launcher that plays them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.launchers.events import Event, EventReader
from harness.launchers.job import Job
from harness.launchers.launcher import Launcher, RankExit, Ranks
from harness.trial.supervise import Trace
from strategies import Setting
from tests.tiny import facts, gpt, plan


def job(folder: Path = Path("nowhere"), settings: dict[str, Setting] | None = None, **fields: Any) -> Job:
    """A job of two data-parallel ranks, or of the given settings."""
    wanted = plan(settings or {"dp": 2, "micro_batch_size": 2})
    workload = gpt()
    shape = facts(workload, wanted.world_size)
    return Job(workload=workload, plan=wanted, facts=shape, folder=folder, threads=1, **fields)


def event(kind: str, t: float, **fields: Any) -> Event:
    """Any event."""
    return {"kind": kind, "t": t, **fields}


def phase(name: str, t: float, **fields: Any) -> Event:
    """A phase is entered."""
    return event("phase", t, name=name, **fields)


def step(number: int, t: float, seconds: float = 0.1, **fields: Any) -> Event:
    """A step is done; the first four are warm-up."""
    name = "warmup" if number < 4 else "measure"
    values = {"loss": 4.0, "grad_norm": 1.0, "accuracy": None, "memory_bytes": 100}
    return event("step", t, step=number, phase=name, step_time_s=seconds, **{**values, **fields})


def error(t: float, outcome: str = "crash", type: str = "ValueError", message: str = "no") -> Event:
    """A rank raised."""
    return event("error", t, type=type, message=message, traceback="", outcome=outcome)


def done(t: float, peak: int = 1000) -> Event:
    """A rank has measured."""
    return event("done", t, peak_memory_bytes=peak, peak_reserved_bytes=2 * peak)


def whole(t: float = 0.0, steps: int = 8) -> list[Event]:
    """A rank that did all it should, from time `t` on: built in 1 s, four warm-up steps, the rest measured."""
    begins = [phase("build", t + 1.0), phase("warmup", t + 2.0)]
    warmup = [step(n, t + 2.1 + n / 10) for n in range(4)]
    measured = [step(n, t + 3.0 + n / 10) for n in range(4, steps)]
    left = [done(t + 5.0), phase("teardown", t + 6.0), event("end", t + 6.5)]
    return [*begins, *warmup, phase("measure", t + 3.0), *measured, *left]


def trace(*ranks: Sequence[Event], exits: Sequence[tuple[int, int | None]] | None = None, **fields: Any) -> Trace:
    """A trial of which each rank left these events; every rank exits with status 0 unless `exits` says otherwise.

    Args:
        ranks: events of each rank.
        exits: (rank, status) in the order in which they were seen.
        fields: of `Trace`, and `settings` for the plan.
    """
    settings = fields.pop("settings", {"dp": len(ranks), "micro_batch_size": 2})
    readers = []
    for events in ranks:
        readers.append(EventReader(Path("nowhere")))
        readers[-1].events = list(events)
    ended = [RankExit(*pair) for pair in ([(r, 0) for r in range(len(ranks))] if exits is None else exits)]
    return Trace(job(settings=settings), **{"started": 0.0, "ended": 7.0, **fields}, readers=readers, exits=ended)


class Clock:
    """Monotonic time in s that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """What time.monotonic returns."""
        return self.now


class FakeLauncher(Launcher):
    """Plays a script: each time the parent would sleep, `play(ranks)` runs instead.

    Args:
        clock: moved on by each sleep.
        play: writes events and ends ranks.
    """

    def __init__(self, clock: Clock, play: Callable[[FakeRanks], None]) -> None:
        self.clock, self.play = clock, play
        self.started: FakeRanks

    def warm_up(self) -> None:
        pass

    def close(self) -> None:
        pass

    def start(self, job: Job, target: Any = None) -> Ranks:
        self.started = FakeRanks(self, job)
        return self.started


class FakeRanks(Ranks):
    """Ranks without processes."""

    def __init__(self, launcher: FakeLauncher, job: Job) -> None:
        self.launcher, self.job = launcher, job
        self.alive = set(range(job.world_size))
        self.ending: list[RankExit] = []
        self.processes: dict[int, int] = {}
        self.killed: list[int] = []
        self.sleeps = 0

    def write(self, rank: int, *events: Event) -> None:
        """A rank appends events."""
        with self.job.events_of(rank).open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)

    def end(self, rank: int, status: int | None = 0) -> None:
        """A rank ends."""
        self.alive.remove(rank)
        self.ending.append(RankExit(rank, status))

    def wait(self, timeout: float) -> Sequence[RankExit]:
        self.sleeps += 1
        if self.sleeps > 10_000:
            raise RuntimeError("the trial never ends")
        self.launcher.clock.now += timeout
        self.launcher.play(self)
        ended, self.ending = self.ending, []
        return ended

    @property
    def running(self) -> frozenset[int]:
        return frozenset(self.alive)

    def pids(self) -> dict[int, int]:
        return {rank: pid for rank, pid in self.processes.items() if rank in self.alive}

    def kill(self) -> None:
        self.killed += sorted(self.alive)
        self.alive.clear()
