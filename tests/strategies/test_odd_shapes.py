"""Shapes that do not divide evenly, weights in two places or in none, tiny buckets: handled exactly or refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.workloads.cnn import Cnn, Digits
from strategies import Setting
from strategies.optimizer import OptimizerConfig
from tests.tiny import Laboratory, Spare, gpt, why_not

Settings = dict[str, Setting]

DATA_PARALLEL: dict[str, Settings] = {
    "ddp": {"data_parallel": "ddp"},
    "zero1": {"data_parallel": "zero1"},
    "zero1-torch": {"data_parallel": "zero1", "zero1_impl": "torch"},
    "zero2": {"data_parallel": "zero2"},
    "zero2-fsdp2": {"data_parallel": "zero2", "zero2_impl": "fsdp2"},
    "zero3": {"data_parallel": "zero3"},
}

every_kind = pytest.mark.parametrize("kind", DATA_PARALLEL)
every_stage = pytest.mark.parametrize("kind", ["ddp", "zero1", "zero2", "zero3"])


def divided(kind: str, **settings: Setting) -> Settings:
    """Two data-parallel ranks, their share in two micro-batches."""
    return {"dp": 2, "micro_batch_size": 2, **DATA_PARALLEL[kind], **settings}


def images(count: int = 50) -> Cnn:
    pixels = bytes(range(17)) * (64 * count // 17 + 1)
    digits = Digits(pixels=pixels[: 64 * count], labels=bytes(n % 10 for n in range(count)))
    return Cnn(name="tiny-cnn", global_batch_size=8, digits=digits, channels=8)


# -- weights in two places, or in none


@every_stage
def test_tied_weights_under_data_parallelism(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind), gpt(tied=True, blocks=2))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("more", [{}, {"sequence_parallel": True}, {"dp": 2, "data_parallel": "zero2"}])
def test_tied_weights_under_tensor_parallelism(more: Settings, laboratory: Laboratory) -> None:
    row = laboratory.follows({"tp": 2, "micro_batch_size": 2, **more}, gpt(tied=True, blocks=2, vocab=67))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pp_schedule": "interleaved"},
        {"pp": 4, "pp_schedule": "gpipe"},
        {"tp": 2},
        {"tp": 2, "sequence_parallel": True},
        *[{"dp": 2, **kind} for kind in DATA_PARALLEL.values()],
        {"dp": 2, "data_parallel": "zero3", "pp_schedule": "interleaved"},
        {"dp": 2, "data_parallel": "zero2", "precision": "bf16_params"},
    ],
)
def test_a_weight_at_both_ends_of_a_pipeline_gets_the_gradients_of_both(more: Settings, laboratory: Laboratory) -> None:
    row = laboratory.follows({"pp": 2, "micro_batch_size": 1, **more}, gpt(tied=True, vocab=67))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("kind", [kind for kind in DATA_PARALLEL if kind not in ("ddp", "zero1-torch")])
def test_a_weight_without_a_part_in_the_loss(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind), gpt(Spare, blocks=2))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("kind", ["ddp", "zero1-torch"])
def test_ddp_says_that_a_weight_had_no_part_in_the_loss(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.run(divided(kind), gpt(Spare, blocks=2))
    assert row["outcome"] == "crash"
    assert "Expected to have finished reduction in the prior iteration" in row["outcome_reason"]


# -- sizes that do not divide


@pytest.mark.parametrize("tp", [2, 3])
@pytest.mark.parametrize("sizes", [{"vocab": 67}, {"heads": 5, "width": 40}, {"heads": 3, "width": 24, "vocab": 64}])
def test_sizes_that_tensor_parallelism_cannot_divide_evenly(
    tp: int, sizes: dict[str, Any], laboratory: Laboratory
) -> None:
    row = laboratory.follows({"tp": tp, "micro_batch_size": 4}, gpt(**{"blocks": 2, **sizes}))
    assert row["numerics"] == "pass"


def test_uneven_heads_and_vocabulary_with_a_divided_sequence(laboratory: Laboratory) -> None:
    sizes: dict[str, Any] = {"blocks": 2, "heads": 5, "width": 40, "vocab": 67, "seq": 24}
    row = laboratory.follows({"tp": 3, "sequence_parallel": True, "micro_batch_size": 4}, gpt(**sizes))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize(("schedule", "pp", "blocks"), [("1f1b", 2, 5), ("gpipe", 3, 4), ("interleaved", 2, 7)])
def test_blocks_that_stages_cannot_share_evenly(schedule: str, pp: int, blocks: int, laboratory: Laboratory) -> None:
    settings: Settings = {"pp": pp, "pp_schedule": schedule, "micro_batch_size": 1}
    row = laboratory.follows(settings, gpt(blocks=blocks, global_batch_size=6))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize(
    ("settings", "sizes", "reason"),
    [
        ({"tp": 5}, {}, "tp=5 needs at least 5 attention heads, but tiny has 4"),
        ({"tp": 3, "sequence_parallel": True}, {"heads": 3, "width": 24}, r"\(seq_len=32, tp=3\)"),
        ({"pp": 5}, {}, "5 stages need at least 5 blocks, but tiny has 4"),
        ({"pp": 4, "micro_batch_size": 4}, {}, "1f1b over 4 stages needs at least 4 micro-batches, but got 2"),
        ({"pp": 3, "pp_schedule": "interleaved"}, {}, "6 stages need at least 6 blocks"),
        ({"dp": 3}, {}, "8 is not one of 3 x 1 = 3"),
        ({"activation_checkpoint": "nth", "checkpoint_every": 5}, {}, "checkpoint_every=5 checkpoints nothing"),
        ({"dp": 2, "data_parallel": "zero3", "blocks_per_unit": 5}, {}, "blocks_per_unit=5 exceeds the 4 blocks"),
        ({"dp": 2, "static_graph": True}, {}, "a step has 4 of them"),
        ({"quantization": "int8"}, {"width": 40}, "int8 needs multiples of 16 in every dimension, but width is 40"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_its_values(
    settings: Settings, sizes: dict[str, Any], reason: str
) -> None:
    assert re.search(reason, str(why_not({"micro_batch_size": 1, **settings}, gpt(**sizes))))


# -- micro-batches, buckets, decay


@every_kind
def test_more_micro_batches_than_buffers(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind, micro_batch_size=1), gpt(blocks=2))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("kind", ["ddp", "zero1", "zero2"])
def test_many_small_buckets(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind, bucket_mb=0.5), gpt(width=128))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("kind", ["zero1", "zero2"])
def test_without_overlap(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind, bucket_mb=0.5, **{f"{kind}_overlap": False}), gpt(width=128))
    assert row["numerics"] == "pass"


@pytest.mark.parametrize("more", [{"blocks_per_unit": 3}, {"prefetch": 0}, {"prefetch": 4}])
def test_units_and_prefetching(more: Settings, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided("zero3", **more), gpt())
    assert row["numerics"] == "pass"


@every_kind
def test_vectors_are_not_decayed_and_gradients_not_clipped_unless_asked(kind: str, laboratory: Laboratory) -> None:
    strong = OptimizerConfig(lr=5e-3, weight_decay=10.0, warmup_steps=1, clip_norm=0.0)
    row = laboratory.follows(divided(kind), gpt(blocks=2, optimizer=strong))
    assert row["numerics"] == "pass"


# -- a model that is no transformer


@every_stage
def test_a_convolutional_network_under_data_parallelism(kind: str, laboratory: Laboratory) -> None:
    row = laboratory.follows(divided(kind), images())
    assert 0.0 <= row["accuracy_last"] <= 1.0


@pytest.mark.parametrize(
    "settings", [{"tp": 2}, {"pp": 2}, {"activation_checkpoint": "full"}, {"quantization": "int8"}, {"compile": True}]
)
def test_what_a_convolutional_network_cannot_do_is_said(settings: Settings) -> None:
    assert "tiny-cnn" in str(why_not({"micro_batch_size": 2, **settings}, images()))
