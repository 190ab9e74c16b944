"""Knobs that only some workloads offer: chunks of the loss, and implementations of attention."""

from __future__ import annotations

from dataclasses import replace

import pytest

import strategies
from harness.plan import Plan, complete
from harness.search.space import Space
from harness.search.spaces import Point, Spaces
from strategies import Facts, Setting
from tests.tiny import Laboratory, Uneven, facts, gpt, knobs, plan, why_not

HERE = facts(gpt(), 2)
OFFERING = replace(HERE, model=replace(HERE.model, vocab_size=32000, attention=("sdpa", "eager", "flash_attention_2")))


def space(of: Facts) -> Space:
    registered = tuple(strategies.registry().values())
    return Space([s for s in registered if s.name in ("ddp", "attention", "chunked_loss")], knobs(), of)


def test_a_plan_with_the_defaults_is_the_plan_from_before_the_knobs() -> None:
    made = plan({"loss_chunks": 1, "attention": "auto"})
    assert made == plan({})
    assert {"loss_chunks", "attention"} & made.keys() == set()
    assert complete(Plan.from_json(made.to_json()), knobs()) == made
    assert plan({"loss_chunks": 4}) != made


def test_nothing_is_searched_where_a_workload_offers_neither() -> None:
    small, offering = space(HERE), space(OFFERING)
    assert {"loss_chunks", "attention"} & small.describe().keys() == set()
    assert offering.describe()["attention"] == "auto, eager"
    assert offering.describe()["loss_chunks"] == "1, 4, 8"
    found = list(offering.grid())
    assert len(found) == 6 * len(list(small.grid()))
    assert all(offering.params_of(each) is not None for each in found)
    points = [Point(8, each) for each in found]
    assert all(Spaces(offering).trace(point)["loss_chunks"][1] == point.plan.get("loss_chunks", 1) for point in points)


@pytest.mark.parametrize(
    ("settings", "of", "sentence"),
    [
        ({"attention": "eager"}, HERE, "attention=eager is not for tiny, which has one implementation of attention"),
        ({"attention": "flex_attention"}, OFFERING, "is not for tiny, which has sdpa and eager and flash_attention_2"),
        ({"attention": "flash_attention_2"}, OFFERING, "has kernels for 16 bits alone, but precision=fp32"),
        (
            {"attention": "flash_attention_2", "precision": "bf16"},
            OFFERING,
            "flash_attention_2 has kernels for GPUs, but the device is cpu",
        ),
        (
            {"attention": "flash_attention_2", "precision": "bf16"},
            replace(OFFERING, device_type="cuda", capability=(9, 0)),
            "needs the package flash-attn",
        ),
        ({"loss_chunks": 4}, replace(HERE, model=replace(HERE.model, head="")), "tiny is none"),
        ({"loss_chunks": 8}, replace(HERE, seq_len=4), "loss_chunks=8 needs as many tokens, but a sample has 4"),
    ],
)
def test_what_cannot_be_is_said(settings: dict[str, Setting], of: Facts, sentence: str) -> None:
    reasons = [s.check(plan(settings), of) for s in strategies.registry().values() if s.active(plan(settings))]
    assert any(reason and sentence in reason for reason in reasons)


CHUNKED: list[tuple[dict[str, Setting], bool]] = [
    ({"loss_chunks": 4, "dp": 2, "data_parallel": "zero3"}, False),
    ({"loss_chunks": 8, "tp": 2, "sequence_parallel": True}, False),
    ({"loss_chunks": 4, "pp": 2, "precision": "bf16_params"}, False),
    ({"loss_chunks": 4, "dp": 2, "data_parallel": "zero2"}, True),
    ({"loss_chunks": 4, "precision": "fp16"}, True),
    ({"loss_chunks": 4, "precision": "bf16_autocast", "dp": 2}, True),
]


@pytest.mark.parametrize(
    "settings", [pytest.param(way, marks=[pytest.mark.slow] if slow else []) for way, slow in CHUNKED]
)
def test_a_loss_in_chunks_follows_one_process(settings: dict[str, Setting], laboratory: Laboratory) -> None:
    """Labels smoothed, some ignored, one weight at both ends: whatever a loss can depend on."""
    made, way = gpt(Uneven, blocks=2, tied=True), {"micro_batch_size": 2, **settings}
    assert why_not(way, made) is None
    row = laboratory.follows(way, made)
    assert "precision" in settings or row["numerics_max_rel_error"] < 1e-5
