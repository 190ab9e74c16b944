import dataclasses

import numpy as np
import pytest
from hypothesis import given

from harness.predict.devices import device
from harness.predict.memory import MemoryUse, in_flight, layer_bytes, peak_memory, stage_memory
from harness.predict.setup import Setup, stage_layers
from tests.predict.plans import LLAMA, MODEL, setup, setups


@pytest.mark.parametrize(
    ("kind", "precision", "bytes_per_parameter"),
    [
        ("ddp", "fp32", 16),
        ("ddp", "megatron", 18),
        ("ddp", "bf16", 8),
        ("zero1", "fp32", 4 + 4 + 8 / 4),
        ("zero2", "fp32", 4 + 4 / 4 + 8 / 4),
        ("zero3", "fp32", 16 / 4),
    ],
)
def test_state_of_four_ranks_takes_the_bytes_that_zero_says(
    kind: str, precision: str, bytes_per_parameter: float
) -> None:
    use = peak_memory(MODEL, setup(precision, dp=4, data_parallel=kind))
    assert use.state == pytest.approx(bytes_per_parameter * MODEL.parameters)


def test_quantised_moments_leave_what_is_not_a_moment() -> None:
    plan = {"precision": "bf16_params", "quantization": "adamw8bit"}
    use = peak_memory(MODEL, Setup.of_plan(plan, 8))
    assert use.optimizer == pytest.approx((4 + 2 * (1 + 4 / 256)) * MODEL.parameters)


@given(drawn=setups())
def test_each_zero_stage_holds_no_more_state_than_the_one_before(drawn: Setup) -> None:
    kinds = ("ddp", "zero1", "zero2", "zero3")
    for stage in {0, int(drawn.pp) - 1}:  # which of them holds most is not the same for all kinds
        held = [stage_memory(MODEL, dataclasses.replace(drawn, data_parallel=kind), stage).state for kind in kinds]
        assert held == sorted(held, reverse=True)


@given(drawn=setups())
def test_more_samples_in_a_micro_batch_never_need_less(drawn: Setup) -> None:
    one = dataclasses.replace(drawn, schedule="1f1b", stages_per_rank=1, global_batch=2**16)
    more = dataclasses.replace(one, micro_batch=2 * one.micro_batch)
    assert peak_memory(MODEL, more).total > peak_memory(MODEL, one).total


@given(drawn=setups())
def test_recomputing_everything_keeps_least(drawn: Setup) -> None:
    def kept(what: str) -> float:
        plain = dataclasses.replace(drawn, activation_checkpoint=what, pp=1, stages_per_rank=1)
        return float(peak_memory(MODEL, plain).activations)

    assert kept("full") <= kept("nth") <= kept("none")
    assert kept("full") <= kept("selective") <= kept("none")
    assert kept("full") <= kept("half") <= kept("none")


@given(drawn=setups())
def test_tensor_parallelism_divides_state(drawn: Setup) -> None:
    whole, divided = (stage_memory(MODEL, dataclasses.replace(drawn, tp=tp), 0) for tp in (1, 4))
    assert divided.state == pytest.approx(whole.state / 4)
    assert divided.activations < whole.activations


@given(drawn=setups())
def test_sequence_parallelism_divides_what_tensor_parallelism_leaves_whole(drawn: Setup) -> None:
    whole, divided = (
        layer_bytes(MODEL, dataclasses.replace(drawn, tp=tp, sequence_parallel=True, keeps_gathered=False))
        for tp in (1, 8)
    )
    assert divided == pytest.approx(whole / 8)


def test_what_sequence_parallelism_gathered_and_keeps_is_whole() -> None:
    again, kept = (
        layer_bytes(MODEL, setup(tp=4, sequence_parallel=True, keeps_gathered=keeps)) for keeps in (False, True)
    )
    assert kept - again == pytest.approx(2 * 2 * MODEL.width * 3 / 4)


def test_stages_have_a_buffer_for_each_micro_batch_they_receive() -> None:
    stream = 2 * MODEL.seq_len * MODEL.width * 2
    first, inner = (stage_memory(MODEL, setup(pp=4, global_batch=16), stage).buffers for stage in (0, 1))
    assert (first, inner) == (8 * stream, 16 * stream)
    assert stage_memory(MODEL, setup(pp=4, global_batch=16, receives_apart=False), 1).buffers == 2 * stream


def test_a_layer_keeps_34_bytes_for_each_feature_with_dropout_and_16_bits() -> None:
    h, s, heads = MODEL.width, MODEL.seq_len, MODEL.heads
    assert layer_bytes(MODEL, setup(dropout=True, fused_attention=False)) == 34 * h + 5 * heads * s
    assert layer_bytes(MODEL, setup(dropout=True, fused_attention=True)) == 34 * h + 4 * heads
    divided = layer_bytes(MODEL, setup(dropout=True, fused_attention=False, tp=4))
    assert divided == 10 * h + 24 * h / 4 + 5 * heads * s / 4


@pytest.mark.parametrize(
    ("schedule", "v", "stage", "held"),
    [("gpipe", 1, 0, 16), ("1f1b", 1, 0, 4), ("1f1b", 1, 3, 1), ("interleaved", 2, 0, 4 + 3 / 2)],
)
def test_micro_batches_in_flight_are_those_of_the_schedule(schedule: str, v: int, stage: int, held: float) -> None:
    plan = setup(pp=4, schedule=schedule, stages_per_rank=v, micro_batch=1, global_batch=16)
    assert in_flight(plan, stage) == held


def test_a_step_of_fewer_micro_batches_than_stages_holds_no_more_than_it_has() -> None:
    assert in_flight(setup(pp=8, micro_batch=1, global_batch=2), 0) == 2


def test_the_last_of_balanced_stages_has_fewer_layers_for_its_projection() -> None:
    large = dataclasses.replace(MODEL, vocab=256_000)
    first, last = stage_layers(large, setup(pp=4))
    assert last < first
    assert 3 * first + last >= large.layers
    assert stage_layers(large, setup(pp=4, balanced=False)) == (4, 4)


def test_stages_hold_all_parameters_between_them() -> None:
    plan = setup("fp32", pp=4, balanced=False)
    held = sum(float(stage_memory(MODEL, plan, stage).params) for stage in range(4))
    assert held == pytest.approx(4 * (MODEL.parameters + MODEL.vocab * MODEL.width))


def test_zero3_gathers_what_it_prefetches_and_everything_that_stays() -> None:
    few, more, all_ = (
        peak_memory(MODEL, setup(dp=8, data_parallel="zero3", prefetch=n, reshard_after_forward=reshard)).buffers
        for n, reshard in ((0, True), (2, True), (0, False))
    )
    assert more - few == pytest.approx(2 * 2 * MODEL.layer_parameters)
    assert all_ - few == pytest.approx(2 * 15 * MODEL.layer_parameters)


@given(drawn=setups())
def test_categories_are_not_negative_and_add_up(drawn: Setup) -> None:
    use = peak_memory(MODEL, drawn, device("A100-80"))
    parts = {f.name: float(getattr(use, f.name)) for f in dataclasses.fields(MemoryUse)}
    assert all(value >= 0 for value in parts.values())
    assert float(use.allocated) == pytest.approx(sum(parts.values()) - parts["context"])
    assert float(use.total) >= float(use.reserved) >= float(use.allocated)


def test_many_plans_at_once_need_what_each_needs_alone() -> None:
    plans = [setup(dp=d, data_parallel=kind, pp=p) for d in (1, 8) for kind in ("ddp", "zero3") for p in (1, 4)]
    together = peak_memory(MODEL, Setup.stack(plans)).total
    assert np.allclose(together, [peak_memory(MODEL, plan).total for plan in plans])


def test_a_published_run_needs_what_was_measured_within_a_tenth() -> None:
    """Llama-3.1-8B, two samples of 8,192 tokens on each of 128 H100: torchtitan publishes 67.0 GiB."""
    plan = setup(
        "fsdp_mixed", dp=128, data_parallel="zero3", activation_checkpoint="half", micro_batch=2, global_batch=256
    )
    assert peak_memory(LLAMA, plan).reserved / 2**30 == pytest.approx(67.0, rel=0.1)


def test_frozen_parameters_have_weights_alone() -> None:
    frozen = dataclasses.replace(MODEL, trained=0.01, trained_ends=0.0)
    use = peak_memory(frozen, setup("fp32", dp=2, data_parallel="ddp"))
    updated = 0.01 * MODEL.layers * MODEL.layer_parameters
    assert use.params == pytest.approx(4 * MODEL.parameters)
    assert (use.grads, use.optimizer) == (pytest.approx(4 * updated), pytest.approx(8 * updated))


def test_stacked_experts_are_divided_over_no_more_ranks_than_there_are() -> None:
    """FSDP2 divides by rows: the first rank of 64 holds one of 8 experts, as much as of 8 ranks."""
    experts = dataclasses.replace(MODEL, experts=8, active=2)
    held = {dp: peak_memory(experts, setup("fp32", dp=dp, data_parallel="zero3")).params for dp in (4, 8, 64)}
    stacked = 4 * experts.layers * 8 * 2 * experts.width * experts.hidden
    assert held[4] == pytest.approx(4 * experts.parameters / 4)
    assert held[64] == pytest.approx((4 * experts.parameters - stacked) / 64 + stacked / 8)


def test_what_tensor_parallelism_leaves_whole_is_held_whole() -> None:
    whole = dataclasses.replace(MODEL, whole_ends=True)
    held = [stage_memory(shape, setup("fp32", tp=4), 0).params for shape in (MODEL, whole)]
    ends = MODEL.embedding_parameters + MODEL.head_parameters
    assert held[1] - held[0] == pytest.approx(4 * ends * 3 / 4)
