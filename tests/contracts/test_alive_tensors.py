"""What every strategy and every pair of them keeps alive on each rank is what theory says, and each does what it says.

The gate compares losses, and none of this changes a loss. Dimensions divide by nothing, so that padding, remainders and
blocks of quantised numbers show.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.launchers.job import Job
from harness.launchers.launcher import Launcher
from harness.predict.setup import MOMENTS, PRECISIONS
from harness.workloads.gpt import Gpt
from strategies import Setting
from tests.contracts import alive
from tests.contracts.test_strategies import alone, arranged, pairs
from tests.tiny import facts, gpt, plan, why_not

Settings = dict[str, Setting]

BUCKET = {"bucket_mb": 0.5}
SLACK = 1.06
"""Padding of buckets and shards; scales of quantised blocks; ranks' shares that are not even."""
SOME = 96_000
"""Bytes of scalars, step counters, positions and norms that no rank divides."""


def model(settings: Settings) -> Gpt:
    """A width, a number of heads and of blocks, and a vocabulary that no power of two divides.

    But for quantised products, whose kernels work on tiles of 16, and moments, whose blocks are of 256 elements.
    """
    blocks = 5 if settings.get("pp_schedule") == "interleaved" else 3
    width, heads = (416, 13) if "quantization" in settings else (195, 15)
    return gpt(vocab=67, blocks=blocks, width=width, heads=heads)


def measured(settings: Settings, workload: Gpt, launcher: Launcher, folder: Path) -> list[dict[str, Any]]:
    """What each rank wrote down."""
    wanted = plan(settings)
    job = Job(workload=workload, plan=wanted, facts=facts(workload, wanted.world_size), folder=folder, threads=1)
    ranks = launcher.start(job, alive.write_down)
    ended = []
    while ranks.running:
        ended += ranks.wait(60.0)
    assert [each.status for each in ended] == [0] * wanted.world_size
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(wanted.world_size)]


def parameters(settings: Settings, workload: Gpt) -> list[float]:
    """Of each rank, before data parallelism divides them; None of it is asked of the code under test."""
    tp, pp = int(settings.get("tp", 1)), int(settings.get("pp", 1))  # type: ignore[call-overload]
    block = 12 * workload.width**2 + 2 * workload.width
    ends = [(67 + workload.seq) * workload.width, (67 + 1) * workload.width]
    if pp == 1:
        return [(workload.blocks * block + sum(ends)) / tp] * int(plan(settings).world_size)
    counts = {3: (2, 1), 5: (3, 2)}[workload.blocks]
    if settings.get("pp_schedule") == "interleaved":  # stages 0 and 2, 1 and 3, of 2, 1, 1 and 1 blocks
        counts = (3, 2)
    return [count * block + end for count, end in zip(counts, ends, strict=True)]


def between_steps(settings: Settings, count: float) -> float:
    """Bytes of parameters, optimizer state and persistent buckets of a rank with so many parameters."""
    kind = str(settings.get("data_parallel", "ddp" if settings.get("dp", 1) != 1 else "none"))
    fsdp = kind == "zero3" or settings.get("zero2_impl") == "fsdp2"
    precision = str(settings.get("precision", "fp32"))
    formats = PRECISIONS["fsdp_mixed" if fsdp and precision == "bf16_params" else precision]
    optimizer = formats.optimizer
    if (quantised := str(settings.get("quantization"))) in MOMENTS:
        optimizer += MOMENTS[quantised] - 8
    weights = formats.weight / (2 if fsdp else 1)
    held = count * (weights + optimizer / (2 if kind in ("zero1", "zero2", "zero3") else 1))
    buckets = {
        "ddp": count * formats.gradient,
        "zero1": count * formats.gradient if settings.get("zero1_impl") == "torch" else 0.0,
    }
    pool = 2 * 0.5e6 * 4 if kind == "zero2" and not fsdp else 0.0
    return held + buckets.get(kind, 0.0) + pool


def check(settings: Settings, launcher: Launcher, folder: Path) -> list[dict[str, Any]]:
    """Run a plan and compare what is alive with theory."""
    arrangement = arranged(settings)
    if plan(arrangement).get("bucket_mb") is not None:
        arrangement = {**arrangement, **BUCKET}
    workload = model(settings)
    found = measured(arrangement, workload, launcher, folder)
    for rank, count in zip(found, parameters(arrangement, workload), strict=True):
        theory = between_steps(arrangement, count)
        assert rank["between"] <= theory * SLACK + SOME, (rank["between"], theory)
        assert rank["built"] <= theory * SLACK + SOME, (rank["built"], theory)  # nothing is left of building
    return found


@pytest.mark.parametrize("settings", list(alone()))
def test_a_strategy_keeps_what_theory_says(settings: Settings, launcher: Launcher, tmp_path: Path) -> None:
    if why_not(arranged(settings), model(settings)) is not None:
        pytest.skip("not with these dimensions")
    check(settings, launcher, tmp_path)


@pytest.mark.parametrize("settings", list(pairs()))
def test_two_strategies_keep_what_theory_says(settings: Settings, launcher: Launcher, tmp_path: Path) -> None:
    if why_not(arranged(settings), model(settings)) is None:
        check(settings, launcher, tmp_path)
