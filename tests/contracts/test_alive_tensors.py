"""What every strategy and every pair of them keeps alive on each rank is what theory says, and each does what it says.

The gate compares losses, and none of this changes a loss. Dimensions divide by nothing, so that padding, remainders and
blocks of quantised numbers show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.launchers.launcher import Launcher
from harness.predict.memory import peak_memory
from harness.predict.setup import MOMENTS, PRECISIONS, Setup
from harness.predict.shape import Shape
from harness.workloads.gpt import Gpt
from strategies import Setting
from tests.contracts import alive
from tests.contracts.test_strategies import alone, arranged, pairs
from tests.tiny import facts, gpt, plan, why_not

Settings = dict[str, Setting]

BUCKET = {"bucket_mb": 0.5}
SLACK = 1.06
"""Padding of buckets and shards; scales of quantised blocks; ranks' shares that are not even."""
PEAK_SLACK = 1.15
"""Temporaries of single operators."""
SOME = 96_000
"""Bytes of scalars, step counters, positions and norms that no rank divides."""


def model(settings: Settings) -> Gpt:
    """A width, a number of heads and of blocks, and a vocabulary that no power of two divides.

    But for quantised products, whose kernels work on tiles of 16, and moments, whose blocks are of 256 elements.
    """
    blocks = 5 if settings.get("pp_schedule") == "interleaved" else 3
    width, heads = (224, 14) if "quantization" in settings else (195, 15)
    return gpt(vocab=67, blocks=blocks, width=width, heads=heads)


def measured(cases: Sequence[tuple[Settings, Gpt]], launcher: Launcher, folder: Path) -> list[list[dict[str, Any]]]:
    """What each rank has seen of each plan; all plans are of one world size."""
    each = [(workload, plan(settings)) for settings, workload in cases]
    plans = tuple((workload, wanted, facts(workload, wanted.world_size)) for workload, wanted in each)
    workload, wanted, at_hand = plans[0]
    batch = alive.Batch(workload=workload, plan=wanted, facts=at_hand, folder=folder, threads=1, plans=plans)
    ranks = launcher.start(batch, alive.write_down)
    ended = []
    while ranks.running:
        ended += ranks.wait(60.0)
    assert [rank.status for rank in ended] == [0] * wanted.world_size
    by_rank = [json.loads(batch.found_of(rank).read_text()) for rank in range(wanted.world_size)]
    return [list(of_one) for of_one in zip(*by_rank, strict=True)]


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
    stages = [count * block + end for count, end in zip(counts, ends, strict=True)]
    return [stage for stage in stages for _ in range(int(plan(settings).world_size) // pp)]


def received(settings: Settings, workload: Gpt) -> float:
    """Bytes of what torch.distributed.pipelining keeps to receive streams and their gradients in."""
    if int(settings.get("pp", 1)) == 1:  # type: ignore[call-overload]
        return 0.0
    wanted = plan(settings)
    neighbours = 3 if settings["pp_schedule"] == "interleaved" else 1
    micro_batches = workload.global_batch_size // (int(wanted["dp"]) * int(wanted["micro_batch_size"]))
    return 4.0 * neighbours * micro_batches * int(wanted["micro_batch_size"]) * workload.seq_len * workload.width


def between_steps(settings: Settings, count: float) -> float:
    """Bytes of parameters, optimizer state and persistent buckets of a rank with so many parameters."""
    kind = str(settings.get("data_parallel", "ddp" if settings.get("dp", 1) != 1 else "none"))
    fsdp = kind == "zero3" or settings.get("zero2_impl") == "fsdp2"
    precision = str(settings.get("precision", "fp32"))
    formats = PRECISIONS["fsdp_mixed" if fsdp and precision == "bf16_params" else precision]
    optimizer = formats.optimizer
    whole = 0.0
    if (quantised := str(settings.get("quantization"))) in MOMENTS:
        optimizer += MOMENTS[quantised] - 8
        whole = 2 * 67 * 224 * (8 - MOMENTS[quantised])  # a vocabulary's matrices are no whole number of blocks
    weights = formats.weight / (2 if fsdp else 1)
    held = count * (weights + optimizer / (2 if kind in ("zero1", "zero2", "zero3") else 1))
    buckets = {
        "ddp": count * formats.gradient,
        "zero1": count * formats.gradient if settings.get("zero1_impl") == "torch" else 0.0,
    }
    pool = 2 * 0.5e6 * 4 if kind == "zero2" and not fsdp else 0.0
    return held + buckets.get(kind, 0.0) + pool + whole


def at_peak(settings: Settings, workload: Gpt) -> float:
    """Bytes of the rank that holds most at its peak, by the closed form of the memory of a rank."""
    shape = Shape.of_facts(workload.facts(), workload.seq_len)
    return float(peak_memory(shape, Setup.of_plan(plan(settings), workload.global_batch_size)).allocated)


def check(every: Sequence[Settings], launcher: Launcher, folder: Path) -> list[list[dict[str, Any]]]:
    """Run plans and compare what is alive with theory."""
    cases = [(small_buckets(arranged(settings)), model(settings)) for settings in every]
    found = measured(cases, launcher, folder)
    wrong = []
    for (settings, workload), ranks in zip(cases, found, strict=True):
        for rank, count in zip(ranks, parameters(settings, workload), strict=True):
            theory = between_steps(settings, count) + received(settings, workload)
            wrong += [
                (settings, what, rank[what], theory)  # nothing is left of building
                for what in ("built", "between")
                if rank[what] > theory * SLACK + SOME
            ]
        most, theory = max(rank["peak"] for rank in ranks), at_peak(settings, workload)
        if most > theory * PEAK_SLACK + SOME:
            wrong.append((settings, "peak", most, theory))
    assert wrong == []
    return found


def small_buckets(settings: Settings) -> Settings:
    return settings if plan(settings).get("bucket_mb") is None else {**settings, **BUCKET}


def batches(size: int = 12) -> Iterator[Any]:
    """Pairs that can run with these dimensions, as many as one launch should try; slow pairs by themselves."""
    groups: dict[tuple[int, bool], list[Any]] = {}
    for each in pairs():
        settings = arranged(each.values[0])
        if why_not(settings, model(settings)) is None:
            groups.setdefault((plan(settings).world_size, bool(each.marks)), []).append(each)
    for (world, slow), members in groups.items():
        for first in range(0, len(members), size):
            some = members[first : first + size]
            name = f"{world}-ranks-{some[0].id}-to-{some[-1].id}"
            yield pytest.param([each.values[0] for each in some], id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("settings", list(alone()))
def test_a_strategy_keeps_what_theory_says(settings: Settings, launcher: Launcher, tmp_path: Path) -> None:
    if why_not(arranged(settings), model(settings)) is not None:
        pytest.skip("not with these dimensions")
    check([settings], launcher, tmp_path)


SENT = {
    "ddp": 1.0,  # half of the bytes of a model to sum, and half to hand round what was summed
    "zero1-flat": 1.0,
    "zero1-torch": 1.5,  # sums everything everywhere, then hands round weights
    "zero2-flat": 1.5,  # sums after each of two micro-batches
    "zero2-fsdp2": 2.0,  # gathers weights for each too
    "zero3": 3.0,  # and once more for each backward pass
}
"""Bytes that each of two ranks sends in a step of two micro-batches, over those of the model in fp32 (Rajbhandari et
al. 2020, section 7, counting what is sent)."""


@pytest.mark.parametrize("kind", SENT)
def test_data_parallelism_sends_what_it_says(kind: str, launcher: Launcher, tmp_path: Path) -> None:
    name, _, how = kind.partition("-")
    settings: Settings = {"data_parallel": name, **({f"{name}_impl": how} if how else {})}
    workload = model(settings)
    ((first, _),) = check([settings], launcher, tmp_path)
    assert sum(first["sent"].values()) == pytest.approx(SENT[kind] * 4 * parameters({}, workload)[0], rel=0.02)


BLOCKS, MICRO_BATCHES, LAYERS = 3, 2, 4
"""LAYERS: nn.Linear of each block."""


@pytest.mark.parametrize(
    ("settings", "attention", "products"),
    [
        ({}, BLOCKS, 0),
        ({"activation_checkpoint": "full"}, 2 * BLOCKS, BLOCKS * (LAYERS - 1)),
        ({"activation_checkpoint": "nth", "checkpoint_every": 2}, BLOCKS + 1, LAYERS - 1),
        ({"activation_checkpoint": "selective"}, BLOCKS, 0),
    ],
    ids=["none", "full", "nth", "selective"],
)
def test_checkpoints_recompute_what_they_say(
    settings: Settings, attention: int, products: int, launcher: Launcher, tmp_path: Path
) -> None:
    ((first, _),) = check([settings], launcher, tmp_path)
    counted = {name.split(".")[1]: count for name, count in first["operators"].items()}
    assert counted["_scaled_dot_product_flash_attention_for_cpu"] == MICRO_BATCHES * attention
    # Three products of each layer, forward and backward, of blocks and of the head; and what is computed again,
    # which ends with the last input that a backward pass needs: a block's last product is not.
    assert counted["mm"] == MICRO_BATCHES * (3 * (BLOCKS * LAYERS + 1) + products)


@pytest.mark.parametrize(
    ("kind", "low"),
    [("int8", {"_int_mm": 3, "mm": 0}), ("float8", {"to float8": 6, "mm": 3})],
    ids=["int8", "float8"],
)
def test_products_of_blocks_run_in_the_format_they_say(
    kind: str, low: dict[str, int], launcher: Launcher, tmp_path: Path
) -> None:
    """Of three products in each layer; float8 casts both factors, and a CPU multiplies what it has cast in fp32."""
    ((first, _),) = check([{"quantization": kind}], launcher, tmp_path)
    counted = {name.removeprefix("aten.").removesuffix(".default"): count for name, count in first["operators"].items()}
    head = {"mm": 3}
    assert {name: counted[name] for name in low} == {
        name: MICRO_BATCHES * (BLOCKS * LAYERS * count + head.get(name, 0)) for name, count in low.items()
    }


@pytest.mark.parametrize(("kind", "size"), [("adamw8bit", 1.0), ("adamwfp8", 1.0), ("adamw4bit", 0.5)])
@pytest.mark.parametrize("shares", [{"data_parallel": "ddp"}, {"data_parallel": "zero1"}, {"data_parallel": "zero3"}])
def test_moments_are_held_in_the_format_they_say(
    kind: str, size: float, shares: Settings, launcher: Launcher, tmp_path: Path
) -> None:
    settings: Settings = {"quantization": kind, **shares}
    assert why_not(arranged(settings), model(settings)) is None
    ((first, _),) = check([settings], launcher, tmp_path)
    both = 2 * size * parameters({}, model(settings))[0] / (1 if shares["data_parallel"] == "ddp" else 2)
    assert first["small"] >= 0.97 * both  # all but the vocabulary's matrices and the norms


@pytest.mark.parametrize("every", list(batches()))
def test_pairs_of_strategies_keep_what_theory_says(every: list[Settings], launcher: Launcher, tmp_path: Path) -> None:
    check(every, launcher, tmp_path)
