"""However a model is divided over ranks, its initial weights are the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import strategies
from harness.launchers.job import Job
from harness.launchers.launcher import Launcher, RankExit
from harness.rank import main as rank_side
from strategies import Setting, Slot
from strategies.engine import clean, local
from tests.tiny import facts, gpt, plan

SLOTS = (Slot.DATA, Slot.TENSOR, Slot.PIPELINE)

CPU = torch.device("cpu")


def save_weights(job: Job, rank: int) -> None:
    """Build what a rank would train and write down its pieces."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{job.folder / 'rendezvous'}", rank=rank, world_size=job.world_size
    )
    training = rank_side.build(job.workload, job.plan, job.facts, CPU)
    pieces = {clean(name): local(p.detach()).clone() for name, p in training.named_parameters()}
    torch.save(pieces, job.folder / f"rank{rank}.pt")
    dist.barrier()


def ways() -> list[Any]:
    registered = [strategy for strategy in strategies.registry().values() if strategy.slot in SLOTS]
    settings = [way for strategy in registered for way in strategy.showcases(facts(gpt(), 2))]
    return [pytest.param(way, id="-".join(map(str, way.values()))) for way in settings]


@pytest.mark.parametrize("settings", ways())
def test_the_pieces_of_all_ranks_are_the_whole_model(
    settings: dict[str, Setting], launcher: Launcher, tmp_path: Path
) -> None:
    workload = gpt(heads=5, width=40, vocab=67)
    degree = {"dp": 2} if "data_parallel" in settings else {}
    wanted = plan({**degree, "micro_batch_size": 2, **settings})
    job = Job(workload=workload, plan=wanted, facts=facts(workload, 2), folder=tmp_path, threads=1)
    ranks = launcher.start(job, save_weights)
    exits: list[RankExit] = []
    while ranks.running:
        exits += ranks.wait(60.0)
    assert [ended.status for ended in exits] == [0, 0]
    held = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert_whole(held, workload)


def assert_whole(held: list[dict[str, torch.Tensor]], workload: Any) -> None:
    """Every parameter is held whole wherever it is not divided, and its divided pieces together have all its values."""
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in workload.build().named_parameters()}
    assert {name for pieces in held for name in pieces} == shapes.keys()
    for name, shape in shapes.items():
        whole = workload.initial(name, shape, CPU)
        pieces = [each[name] for each in held if name in each]
        if all(piece.shape == whole.shape for piece in pieces):
            assert all(torch.equal(piece, whole) for piece in pieces), name
        else:
            together = torch.cat([piece.flatten() for piece in pieces])
            assert torch.equal(together.sort().values, whole.flatten().sort().values), name
