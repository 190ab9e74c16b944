"""Ranks come to one decision, each in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist

from harness.launchers.job import Job
from harness.launchers.launcher import Launcher
from harness.rank.agreement import Agreement
from tests.trial.fake_ranks import job

TIMES = {0: [0.1, 0.5, 0.1, 0.4, 0.1, 0.1], 1: [0.2, 0.3, 0.2, 0.1, 0.3, 0.1]}
SLOWEST = [0.2, 0.5, 0.2, 0.4]


def decide_together(given: Job, rank: int) -> None:
    """Two steps a turn; decided as soon as four steps of the slowest rank are known."""
    dist.init_process_group("gloo", f"file://{given.folder}/meet", rank=rank, world_size=2)
    seen: list[list[float]] = []

    def decide(times: list[float]) -> str | None:
        seen.append([round(time, 6) for time in times])
        return "enough" if len(times) >= 4 else None

    agreement = Agreement(decide, dist.group.WORLD)
    decisions = [agreement.turn(TIMES[rank][:count]) for count in (2, 4, 6)]
    (given.folder / f"{rank}.json").write_text(json.dumps([decisions, seen]))


def test_ranks_decide_alike_from_the_slowest_rank_of_each_step_one_turn_later(
    launcher: Launcher, tmp_path: Path
) -> None:
    ranks = launcher.start(job(tmp_path), decide_together)
    exits = []
    while ranks.running:
        exits += ranks.wait(1.0)
    assert [ended.status for ended in exits] == [0, 0]
    for rank in (0, 1):
        decisions, seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert decisions == [None, None, "enough"]
        assert seen == [[], SLOWEST[:2], SLOWEST]


def test_one_rank_decides_at_once() -> None:
    agreement = Agreement(lambda times: len(times) if len(times) > 1 else None, None)
    assert [agreement.turn([0.1]), agreement.turn([0.1, 0.2])] == [None, 2]
