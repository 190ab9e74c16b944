import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.predict.costs import collective_seconds, product_seconds, send_seconds
from harness.predict.devices import Device, device
from harness.predict.setup import Setup
from harness.predict.time import StepTime, step_time
from tests.predict.plans import MODEL, setup, setups

A100 = device("A100-80")
IDEAL = dataclasses.replace(
    A100,
    efficiency=dataclasses.replace(
        A100.efficiency,
        **{
            **dict.fromkeys(("matmul_share", "link_share", "network_share", "memory_share"), 1.0),
            **dict.fromkeys(("half_dim", "link_latency_s", "network_latency_s", "fixed_s"), 0.0),
        },
    ),
)
"""A device that reaches its data sheet."""


def total(plan: Setup, on: Device = A100) -> float:
    return float(step_time(MODEL, plan, on).total)


def test_a_product_takes_two_flops_for_each_of_its_cells_at_the_peak() -> None:
    assert product_seconds(IDEAL, 312e12, 1000, 2000, 3000) == pytest.approx(2 * 6e9 / 312e12)


@given(rows=st.integers(1, 10_000), columns=st.integers(1, 10_000))
def test_a_product_of_small_dimensions_is_slower_than_its_flops_say(rows: int, columns: int) -> None:
    flops = 2 * rows * columns * 512
    assert product_seconds(A100, 312e12, rows, columns, 512) > flops / 312e12


def test_an_all_reduce_inside_a_node_sends_twice_all_but_one_share() -> None:
    assert collective_seconds(IDEAL, 1e9, 8, 1, 2) == pytest.approx(2 * 7 / 8 * 1e9 / 300e9)


def test_rings_side_by_side_share_the_network_of_their_nodes() -> None:
    alone = collective_seconds(IDEAL, 1e9, 16, 1, 2)
    eight = collective_seconds(IDEAL, 1e9, 2, 8, 2)
    assert alone == pytest.approx(2 * 15 / 16 * 1e9 / 200e9)
    assert eight == pytest.approx(2 * 1 / 2 * 1e9 * 8 / 200e9)


@given(size=st.floats(1, 1e12), ranks=st.sampled_from([1, 2, 8, 64]), stride=st.sampled_from([1, 2, 8]))
def test_a_collective_of_one_rank_takes_no_time_and_more_bytes_take_longer(
    size: float, ranks: int, stride: int
) -> None:
    once, twice = (collective_seconds(A100, n * size, ranks, stride, 1) for n in (1, 2))
    assert (once == 0) == (ranks == 1)
    assert twice >= once


def test_nothing_is_sent_to_other_stages_where_there_are_none() -> None:
    assert send_seconds(MODEL, setup(dp=8), A100) == 0
    inside, across = (send_seconds(MODEL, setup(pp=2, dp=d), A100) for d in (1, 8))
    assert 0 < inside < across


def test_the_bubble_of_even_stages_is_p_minus_one_of_a_stage() -> None:
    headless = dataclasses.replace(MODEL, vocab=1)
    found = step_time(headless, setup(pp=4, micro_batch=1, global_batch=12, tp=1), IDEAL)
    assert found.bubble == pytest.approx(3 / 12 * (found.compute + found.exposed_communication), rel=0.02)


@pytest.mark.parametrize("v", [2, 4])
def test_interleaving_divides_the_bubble(v: int) -> None:
    plan = setup(pp=4, micro_batch=1, global_batch=16)
    interleaved = dataclasses.replace(plan, schedule="interleaved", stages_per_rank=v)
    whole, divided = (step_time(MODEL, p, IDEAL).bubble for p in (plan, interleaved))
    assert divided == pytest.approx(whole / v, rel=0.05)


@given(drawn=setups())
def test_a_larger_global_batch_never_takes_less_time(drawn: Setup) -> None:
    assert total(dataclasses.replace(drawn, global_batch=2 * drawn.global_batch)) >= total(drawn)


@given(drawn=setups())
def test_a_deeper_model_takes_longer(drawn: Setup) -> None:
    deeper = dataclasses.replace(MODEL, layers=2 * MODEL.layers)
    assert float(step_time(deeper, drawn, A100).total) > total(drawn)


@given(drawn=setups())
def test_recomputation_takes_longer_than_none(drawn: Setup) -> None:
    none, full = (total(dataclasses.replace(drawn, activation_checkpoint=what)) for what in ("none", "full"))
    assert full > none


@given(drawn=setups())
def test_overlap_never_makes_a_step_longer(drawn: Setup) -> None:
    plain, overlapped = (total(dataclasses.replace(drawn, overlap=on)) for on in (False, True))
    assert overlapped <= plain * (1 + 1e-9)


@given(drawn=setups())
def test_a_faster_device_is_never_slower(drawn: Setup) -> None:
    faster = dataclasses.replace(
        A100,
        peak_flops={kind: 2 * value for kind, value in A100.peak_flops.items()},
        memory_bandwidth=2 * A100.memory_bandwidth,
        link_bandwidth=2 * A100.link_bandwidth,
        network_bandwidth=2 * A100.network_bandwidth,
    )
    assert total(drawn, faster) <= total(drawn) * (1 + 1e-9)


@given(drawn=setups())
def test_parts_are_not_negative_and_add_up(drawn: Setup) -> None:
    found = step_time(MODEL, drawn, A100)
    parts = ("compute", "exposed_communication", "bubble", "optimizer", "fixed")
    assert all(float(getattr(found, part)) >= -1e-12 for part in parts)
    assert float(found.total) == pytest.approx(sum(float(getattr(found, part)) for part in parts))
    assert found.overlapped_communication >= 0


@given(drawn=setups())
def test_utilisation_is_below_one_and_follows_from_tokens(drawn: Setup) -> None:
    found: StepTime = step_time(MODEL, drawn, A100)
    assert 0 < float(found.mfu) < 1
    rate = float(found.tokens_per_s) * float(MODEL.flops_per_token)
    assert float(found.mfu) == pytest.approx(rate / (float(A100.peak(drawn.compute)) * drawn.world_size))


@given(drawn=st.lists(setups(), min_size=2, max_size=6))
def test_many_plans_at_once_take_what_each_takes_alone(drawn: list[Setup]) -> None:
    together = step_time(MODEL, Setup.stack(drawn), A100).total
    assert np.allclose(together, [total(plan) for plan in drawn])


def test_zero1_sends_what_ddp_does_and_zero3_half_as_much_again() -> None:
    def sent(kind: str, **given: object) -> float:
        plan = setup("bf16", dp=8, data_parallel=kind, overlap=False, micro_batch=8, global_batch=64, **given)
        return float(step_time(MODEL, plan, IDEAL).exposed_communication)

    assert sent("zero1") == pytest.approx(sent("ddp"))
    assert sent("zero3") == pytest.approx(1.5 * sent("ddp"))
    assert sent("zero3", reshard_after_forward=False) == pytest.approx(sent("ddp"))


def test_a_plan_is_read_by_the_names_of_its_knobs() -> None:
    plan = {
        "data_parallel": "zero1",
        "dp": 4,
        "tp": 2,
        "pp": 2,
        "pp_schedule": "interleaved",
        "micro_batch_size": 3,
        "precision": "bf16_autocast",
        "reduce_dtype": "bf16",
        "zero1_overlap": False,
        "quantization": "none",
    }
    found = Setup.of_plan(plan, 96)
    assert (found.world_size, found.micro_batches, found.stages) == (16, 8, 4)
    assert (found.reduce_bytes, found.activation_bytes, found.overlap) == (2, 2, False)


def test_flat_buckets_sum_in_the_format_they_send_and_others_in_that_of_the_weights() -> None:
    plan = {"precision": "bf16_params", "data_parallel": "zero1", "dp": 2}
    assert Setup.of_plan(plan, 8).gradient_bytes == 4
    assert Setup.of_plan({**plan, "reduce_dtype": "bf16"}, 8).gradient_bytes == 2
    assert Setup.of_plan({**plan, "zero1_impl": "torch"}, 8).gradient_bytes == 2
    assert Setup.of_plan({**plan, "data_parallel": "zero3"}, 8).weight_bytes == 4


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="unknown precision 'fp12'"):
        Setup.of_plan({"precision": "fp12"}, 8)
