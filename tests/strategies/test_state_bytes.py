"""Training state that is divided takes the share of memory and communication that the theory says."""

from __future__ import annotations

from typing import Any

import pytest

from strategies import Setting
from tests.tiny import Laboratory, gpt

MODEL = gpt(width=128)
PARAMETERS = 4 * MODEL.parameters
"""Bytes of parameters in fp32; gradients take as many, AdamW's two moments twice as many."""
BUCKET = 500_000
SLACK = 1.03
"""Padding of buckets and shards, and the optimizer's step counters."""


def state(laboratory: Laboratory, **settings: Setting) -> tuple[float, float, float]:
    """Parameters, gradients and optimizer state on the worst of two ranks, in units of the parameters."""
    row: dict[str, Any] = laboratory.follows({"dp": 2, "micro_batch_size": 2, **settings}, MODEL)
    names = ("memory_params_bytes", "memory_grads_held_bytes", "memory_optimizer_bytes")
    params, grads, optimizer = (row[name] / PARAMETERS for name in names)
    return params, grads, optimizer


def assert_about(found: tuple[float, float, float], expected: tuple[float, float, float]) -> None:
    assert all(low <= value <= low * SLACK for value, low in zip(found, expected, strict=True)), found


def test_ddp_holds_everything_on_every_rank(laboratory: Laboratory) -> None:
    assert_about(state(laboratory, data_parallel="ddp"), (1.0, 1.0, 2.0))


def test_zero1_divides_the_optimizer(laboratory: Laboratory) -> None:
    assert_about(state(laboratory, data_parallel="zero1"), (1.0, 1.0, 1.0))


def test_zeroredundancyoptimizer_divides_by_whole_parameters(laboratory: Laboratory) -> None:
    params, grads, optimizer = state(laboratory, data_parallel="zero1", zero1_impl="torch")
    assert_about((params, grads, 1.0), (1.0, 1.0, 1.0))
    assert 1.0 <= optimizer < 1.2


def test_zero2_divides_gradients_too_but_for_a_pool_of_two_buckets(laboratory: Laboratory) -> None:
    params, grads, optimizer = state(laboratory, data_parallel="zero2", bucket_mb=BUCKET / 1e6)
    assert_about((params, 1.0, optimizer), (1.0, 1.0, 1.0))
    assert 0.5 < grads <= 0.5 * SLACK + 2 * BUCKET * SLACK / PARAMETERS


@pytest.mark.parametrize("settings", [{"data_parallel": "zero3"}, {"data_parallel": "zero2", "zero2_impl": "fsdp2"}])
def test_fsdp2_divides_everything_between_steps(settings: dict[str, Setting], laboratory: Laboratory) -> None:
    assert_about(state(laboratory, **settings), (0.5, 0.5, 1.0))


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({"data_parallel": "ddp"}, 1.0),
        ({"data_parallel": "zero1"}, 1.0),
        ({"data_parallel": "zero2", "micro_batch_size": 4}, 1.0),
        ({"data_parallel": "zero2", "micro_batch_size": 1}, 2.5),
    ],
)
def test_a_rank_sends_what_the_theory_says(settings: dict[str, Setting], share: float, laboratory: Laboratory) -> None:
    """Half of the gradients for each reduction of two ranks, and half of the parameters to gather them again."""
    row = laboratory.follows({"dp": 2, "micro_batch_size": 2, **settings}, MODEL)
    assert share <= row["comm_bytes_per_step"] / PARAMETERS <= share * SLACK


def test_tensor_parallelism_divides_the_matrices(laboratory: Laboratory) -> None:
    row = laboratory.follows({"tp": 2, "micro_batch_size": 4}, MODEL)
    whole = 4 * (MODEL.seq * MODEL.width + (2 * MODEL.blocks + 1) * MODEL.width)  # positions and norms
    assert row["memory_params_bytes"] == (PARAMETERS - whole) / 2 + whole


def test_master_weights_and_eight_bit_moments_are_counted_as_they_are_stored(laboratory: Laboratory) -> None:
    pytest.importorskip("torchao")
    _, grads, optimizer = state(laboratory, data_parallel="ddp", precision="bf16_params")
    assert_about((0.5, grads, optimizer), (0.5, grads, 3.0))
    _, _, small = state(laboratory, data_parallel="ddp", quantization="adamw8bit")
    assert 0.5 <= small < 0.6


def test_checkpointing_keeps_fewer_activations(laboratory: Laboratory) -> None:
    kinds = ("none", "nth", "full")
    rows = [laboratory.follows({"micro_batch_size": 8, "activation_checkpoint": kind}, gpt()) for kind in kinds]
    none, nth, full = (row["memory_activations_bytes"] for row in rows)
    assert none > 1.2 * nth > 1.2 * 1.2 * full
