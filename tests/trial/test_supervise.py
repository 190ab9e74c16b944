from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.launchers.job import Deadlines
from harness.trial import supervise
from harness.trial.supervise import GRACE, TICK, Trace, follow
from tests.trial.fake_ranks import Clock, FakeLauncher, FakeRanks, job, phase, step, whole

LIMITS = Deadlines(start=20.0, step=5.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervise, "time", clock)
    return clock


def run(clock: Clock, folder: Path, play: Callable[[FakeRanks], None], **fields: Any) -> tuple[Trace, FakeRanks]:
    """Follow a job whose ranks are played; also the ranks, to see which were killed."""
    options = {name: fields.pop(name) for name in ("on_step", "memory_floor") if name in fields}
    launcher = FakeLauncher(clock, play)
    trace = follow(launcher, job(folder, **fields), LIMITS, **options)
    return trace, launcher.started


def test_a_trial_that_ends_by_itself_is_left_alone(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        rank = ranks.sleeps - 1
        ranks.write(rank, *whole())
        ranks.end(rank)

    trace, ranks = run(clock, tmp_path, play)
    assert ([(e.rank, e.status) for e in trace.exits], trace.stopped, ranks.killed) == ([(0, 0), (1, 0)], None, [])
    assert [reader.last("done") is not None for reader in trace.readers] == [True, True]
    assert trace.ended - trace.started == 2 * TICK


def test_a_rank_without_a_first_step_hangs_after_the_deadline_for_the_start(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(0, step(ranks.sleeps, clock.now))
        ranks.write(1, phase("build", clock.now))  # a sign of life that is no step does not put the deadline off

    trace, ranks = run(clock, tmp_path, play)
    assert (trace.stopped, ranks.killed) == ("hang", [0, 1])
    assert trace.stopped_reason == "rank 1 gave no sign of life for 20 s in build"
    assert 20.0 < trace.ended - trace.started <= 20.0 + TICK


def test_a_rank_that_falls_silent_hangs_after_the_deadline_of_a_step(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(1, step(ranks.sleeps, clock.now))
        if ranks.sleeps <= 80:
            ranks.write(0, step(ranks.sleeps, clock.now))

    trace, _ = run(clock, tmp_path, play)
    assert trace.stopped_reason == "rank 0 gave no sign of life for 5 s in launch, after step 80"
    assert 80 * TICK + 5.0 < trace.ended - trace.started <= 80 * TICK + 5.0 + TICK


def test_a_rank_that_has_ended_does_not_hang(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(1, step(ranks.sleeps, clock.now))
        if ranks.sleeps == 1:
            ranks.write(0, *whole())
            ranks.end(0)
        if ranks.sleeps == 200:
            ranks.end(1)

    trace, ranks = run(clock, tmp_path, play)
    assert (trace.stopped, ranks.killed, len(trace.exits)) == (None, [], 2)


@pytest.mark.parametrize("status", [1, -9, None, 0])  # 0: it ends as if all were done, but never said so
def test_after_a_failure_the_others_have_a_moment_to_say_what_they_saw(
    status: int | None, clock: Clock, tmp_path: Path
) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(1, step(ranks.sleeps, clock.now))
        if ranks.sleeps == 4:
            ranks.end(0, status)

    trace, ranks = run(clock, tmp_path, play)
    assert ([(e.rank, e.status) for e in trace.exits], trace.stopped, ranks.killed) == ([(0, status)], None, [1])
    assert GRACE < trace.ended - (trace.started + 4 * TICK) <= GRACE + TICK


def test_a_rank_that_holds_more_than_the_limit_is_ended(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.processes = {1: os.getpid()}
        ranks.write(1, phase("build", clock.now, held_bytes=0))

    trace, ranks = run(clock, tmp_path, play, memory_limit=4096)
    assert (trace.stopped, ranks.killed) == ("oom_host", [0, 1])
    assert str(trace.stopped_reason).startswith("rank 1 held ")
    assert str(trace.stopped_reason).endswith(" B where the memory limit is 4096 B")


def test_ranks_that_leave_the_machine_too_little_memory_are_ended(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = SimpleNamespace(bytes=9000)  # other processes are not here, so what is missing was taken by the ranks
    monkeypatch.setattr(supervise, "available_bytes", lambda: left.bytes)
    ticks: list[float] = []

    def play(ranks: FakeRanks) -> None:
        ranks.processes = {1: os.getpid()}
        left.bytes -= 2000
        ticks.append(clock.now)

    trace, ranks = run(clock, tmp_path, play, memory_floor=2000)
    assert (trace.stopped, trace.stopped_rank, ranks.killed) == ("oom_host", 1, [0, 1])
    assert "B when the machine had 1000 B of memory left, less than the 2000 B" in str(trace.stopped_reason)
    looks = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    assert looks == pytest.approx([supervise.TIGHT_TICK] * len(looks))  # closer and closer looks


def test_ranks_are_not_ended_for_memory_that_others_took(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([2**40] + [10] * 100)
    monkeypatch.setattr(supervise, "available_bytes", lambda: next(left))

    def play(ranks: FakeRanks) -> None:
        ranks.processes = {1: os.getpid()}
        if ranks.sleeps == 5:
            ranks.write(0, *whole())
            ranks.write(1, *whole())
            ranks.end(0)
            ranks.end(1)

    trace, ranks = run(clock, tmp_path, play, memory_floor=2**39)
    assert (trace.stopped, ranks.killed) == (None, [])


@pytest.mark.parametrize(("held", "limit"), [(0, None), (0, 2**50), (2**50, 4096)])
def test_what_a_rank_held_when_it_began_does_not_count(
    held: int, limit: int | None, clock: Clock, tmp_path: Path
) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.processes = {0: os.getpid()}
        ranks.write(0, phase("build", clock.now, held_bytes=held))
        if ranks.sleeps == 3:
            ranks.end(0)
            ranks.end(1)

    assert run(clock, tmp_path, play, memory_limit=limit)[0].stopped is None


def test_a_rank_that_vanishes_while_it_is_looked_at_is_no_error(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.processes = {0: 2**22 + 1}  # no kernel gives this process id away
        ranks.write(0, phase("build", clock.now))
        if ranks.sleeps == 3:
            ranks.end(0)
            ranks.end(1)

    assert run(clock, tmp_path, play, memory_limit=1)[0].stopped is None


def test_finished_steps_are_told_as_they_come_in(clock: Clock, tmp_path: Path) -> None:
    told: list[int] = []

    def play(ranks: FakeRanks) -> None:
        if ranks.sleeps == 1:
            ranks.write(0, step(0, 1.0), step(1, 2.0))
        if ranks.sleeps == 3:
            ranks.write(0, step(2, 3.0))
        if ranks.sleeps == 4:
            ranks.end(0)
            ranks.end(1)

    run(clock, tmp_path, play, on_step=told.append)
    assert told == [2, 3]


def test_an_interrupt_ends_every_rank(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        raise KeyboardInterrupt

    trace, ranks = run(clock, tmp_path, play)
    assert (trace.stopped, ranks.killed) == ("interrupted", [0, 1])


def test_what_a_rank_wrote_last_is_read(clock: Clock, tmp_path: Path) -> None:
    def play(ranks: FakeRanks) -> None:
        ranks.write(0, *whole())
        ranks.end(0, 1)
        ranks.end(1, 1)

    trace, _ = run(clock, tmp_path, play)
    assert trace.readers[0].last("done") is not None


def test_the_kernels_kills_are_counted_from_the_launch_on(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = SimpleNamespace(kills=5)
    monkeypatch.setattr(supervise, "kernel_oom_kills", lambda: counter.kills)

    def play(ranks: FakeRanks) -> None:
        counter.kills = 7
        ranks.end(0, -9)
        ranks.end(1, -9)

    assert run(clock, tmp_path, play)[0].kernel_oom_kills == 2
