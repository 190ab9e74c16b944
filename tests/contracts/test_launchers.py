"""What every registered launcher does, whatever it starts ranks with."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from harness import launchers
from harness.errors import UnknownNameError
from harness.launchers.job import Deadlines, Job, Measurement
from harness.launchers.launcher import Launcher, RankExit, Ranks
from harness.launchers.processes import alive
from harness.rank import PRELOAD
from harness.trial.supervise import follow
from tests.launchers import targets
from tests.tiny import facts, plan
from tests.trial.fake_ranks import job
from tests.trial.faulty import faulty

LONG = 60.0


@pytest.fixture(scope="module", params=launchers.LAUNCHERS)
def started(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """Each launcher; the local one is the one that all tests share."""
    if request.param == "local":
        yield request.getfixturevalue("launcher")
    else:
        with launchers.create(request.param, PRELOAD) as launcher:
            yield launcher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / targets.MEETING)
    return tmp_path


def met(folder: Path, ranks: int = 2, parent: subprocess.Popen[bytes] | None = None) -> dict[int, int]:
    """Rank's process -> its child, once every rank has told both; the parent that starts them must not have ended."""
    # Open for writing too: a pipe that is closed between two ranks would lose what the second one is about to say.
    with open(os.open(folder / targets.MEETING, os.O_RDWR), encoding="utf-8") as pipe:
        while not select.select([pipe], [], [], 1.0)[0]:
            assert parent is None or parent.poll() is None, "the ranks' parent has ended before they began"
        lines = [pipe.readline() for _ in range(ranks)]
    return {int(rank): int(child) for rank, child in map(str.split, lines)}


def ended(ranks: Ranks) -> list[RankExit]:
    exits: list[RankExit] = []
    while ranks.running:
        exits += ranks.wait(LONG)
    return sorted(exits, key=lambda each: each.rank)


def gone(pids: Sequence[int]) -> bool:
    """Whether no process of these is left, or will be in a moment: a killed one takes a little to vanish."""
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if alive(pid):
                processes.append(psutil.Process(pid))
    left = psutil.wait_procs(processes, timeout=LONG)[1]
    return not [process for process in left if alive(process.pid)]


def test_exit_statuses_are_told_once_each(started: Launcher, tmp_path: Path) -> None:
    ranks = started.start(job(tmp_path, {"dp": 3, "micro_batch_size": 1}), targets.end_with_status)
    assert ended(ranks) == [RankExit(0, 0), RankExit(1, 3), RankExit(2, 6)]
    assert (ranks.running, ranks.pids(), list(ranks.wait(0.0))) == (frozenset(), {}, [])


def test_a_signal_is_told_as_its_negative_number(started: Launcher, tmp_path: Path) -> None:
    ranks = started.start(job(tmp_path), targets.end_by_signal)
    assert ended(ranks) == [RankExit(0, -signal.SIGTERM), RankExit(1, -signal.SIGKILL)]


def test_killing_ends_the_ranks_and_what_they_started(started: Launcher, folder: Path) -> None:
    ranks = started.start(job(folder), targets.wait)
    children = met(folder)
    assert list(ranks.wait(0.0)) == []
    assert ranks.running == {0, 1}
    assert set(ranks.pids()) == {0, 1}
    assert set(ranks.pids().values()) == set(children)
    ranks.kill()
    assert (ranks.running, ranks.pids()) == (frozenset(), {})
    assert gone([*children, *children.values()])
    ranks.kill()  # once more does no harm


def test_what_a_rank_started_ends_with_it(started: Launcher, folder: Path) -> None:
    ranks = started.start(job(folder), targets.leave_a_child)
    children = met(folder)
    assert ended(ranks) == [RankExit(0, 0), RankExit(1, 0)]
    assert gone([*children, *children.values()])


@pytest.mark.parametrize("target", [targets.leave_a_daemon, targets.wait_beside_a_daemon])
def test_a_daemon_that_a_rank_started_ends_with_the_trial(
    target: Callable[[Job, int], None], started: Launcher, folder: Path
) -> None:
    ranks = started.start(job(folder), target)
    daemons = met(folder).values()
    if target is targets.leave_a_daemon:
        assert ended(ranks) == [RankExit(0, 0), RankExit(1, 0)]
    ranks.kill()
    assert gone([*daemons])


def test_a_rank_that_ignores_sigterm_is_ended(started: Launcher, folder: Path) -> None:
    ranks = started.start(job(folder), targets.ignore_sigterm)
    children = met(folder)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    ranks.kill()
    assert gone([*children, *children.values()])


@pytest.mark.launching
@pytest.mark.parametrize("name", launchers.LAUNCHERS)
def test_nothing_outlives_a_parent_that_is_killed(name: str, folder: Path) -> None:
    root = Path(launchers.__file__).parents[2]
    command = [sys.executable, "-m", "tests.launchers.targets", name, str(folder)]
    parent = subprocess.Popen(command, cwd=root)
    children = met(folder, parent=parent)
    parent.kill()
    parent.wait()
    assert gone([*children, *children.values()])


def test_what_ranks_print_is_captured_apart(
    started: Launcher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    workload, speaking = faulty("speak"), plan({"dp": 2, "micro_batch_size": 4})
    shape, few = facts(workload, 2), Measurement(warmup_steps=4, min_steps=1, max_steps=1)
    told = Job(workload=workload, plan=speaking, facts=shape, folder=tmp_path, threads=1, measurement=few)
    quiet, loud = follow(started, told, Deadlines()).outputs
    assert "said" not in quiet
    assert all(f"said {where}" in loud for where in ("on standard output", "on standard error", "by a child"))
    assert "said" not in "".join(capfd.readouterr())


def test_an_unknown_launcher_gets_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown launcher 'locla': did you mean 'local'"):
        launchers.create("locla")
