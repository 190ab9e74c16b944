import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.predict.memory import layer_bytes
from harness.predict.shape import Shape
from strategies.facts import Counted, ModelFacts
from tests.predict.plans import LLAMA, setup

GPT2 = Shape(width=768, layers=12, heads=12, kv_heads=12, hidden=3072, seq_len=1024, vocab=50257, biases=True)


def test_gpt2_has_the_published_number_of_parameters() -> None:
    assert GPT2.parameters == 124_439_808


def test_llama_3_has_the_published_number_of_parameters() -> None:
    assert LLAMA.parameters == 8_030_261_248


def test_a_workloads_model_has_as_many_parameters_as_its_own_count_says() -> None:
    facts = ModelFacts(
        parameters=3_443_968,
        blocks=("blocks.0", "blocks.1", "blocks.2", "blocks.3"),
        heads=4,
        vocab_size=512,
        width=256,
        hidden=1024,
    )
    shape = Shape.of_facts(facts, seq_len=128)
    assert shape.parameters == 4 * (12 * 256**2 + 2 * 256) + 2 * 512 * 256 + 128 * 256 + 256


def test_a_model_without_attention_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="closed forms are for transformers"):
        Shape.of_facts(ModelFacts(parameters=10, blocks=()), seq_len=1)


LLAMA_FACTS = {
    "parameters": int(LLAMA.parameters),
    "blocks": tuple(f"layers.{i}" for i in range(LLAMA.layers)),
    "heads": LLAMA.heads,
    "kv_heads": LLAMA.kv_heads,
    "vocab_size": LLAMA.vocab,
    "width": LLAMA.width,
    "hidden": LLAMA.hidden,
}


def test_gates_and_positions_are_told_by_the_number_of_parameters() -> None:
    facts = ModelFacts(**LLAMA_FACTS)
    shape = Shape.of_facts(facts, seq_len=8192)
    assert (shape.gated, shape.positions, shape.biases, shape.kv_heads) == (True, False, False, LLAMA.kv_heads)
    assert shape.parameters == LLAMA.parameters


def test_a_model_with_other_parameters_than_its_dimensions_tell_is_refused() -> None:
    experts = {**LLAMA_FACTS, "parameters": 5 * int(LLAMA.parameters)}
    with pytest.raises(InputError, match="closed forms are for decoders of equal layers"):
        Shape.of_facts(ModelFacts(**experts), seq_len=8192)


def test_a_model_that_is_frozen_in_part_is_refused() -> None:
    with pytest.raises(InputError, match="trained whole"):
        Shape.of_facts(ModelFacts(**LLAMA_FACTS, frozen=1), seq_len=8192)


def test_a_dimension_below_one_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="layers must be at least 1, but got 0"):
        Shape(width=8, layers=0, heads=1, kv_heads=1, hidden=32, seq_len=4, vocab=16)


def test_flops_of_a_token_are_six_for_each_weight_that_multiplies_and_those_of_attention() -> None:
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert GPT2.flops_per_token == 6 * matrices + 12 * 12 * 1024 * 768


def test_what_was_counted_of_a_model_is_what_its_shape_has() -> None:
    """A layer of Llama-3-8B with 8 experts for each token's 2, and adapters beside frozen matrices."""
    expert = 3 * LLAMA.width * LLAMA.hidden
    layer = float(LLAMA.layer_parameters) + 7 * expert + 1e6
    ends = int(LLAMA.parameters - LLAMA.layers * LLAMA.layer_parameters)
    counted = Counted(
        block_parameters=layer,
        block_trained=1e6,
        block_flops=3e12,
        forward_flops=1e14,
        flops=2e14,
        outputs=LLAMA.vocab * 1024,
        kept_stream=(1e9, 5e8),
        kept_inside=(4e9, 2e9),
    )
    facts = {**LLAMA_FACTS, "parameters": int(LLAMA.layers * layer) + ends, "head_dim": 128}
    frozen = int(facts["parameters"] - LLAMA.layers * 1e6)  # type: ignore[operator]
    shape = Shape.of_facts(ModelFacts(**facts, frozen=frozen, experts=8, active_experts=2, counted=counted), 1024)
    assert shape.parameters == pytest.approx(facts["parameters"])
    assert (shape.experts, shape.active, shape.gated) == (8, 2, True)
    assert shape.trained * shape.layer_parameters == pytest.approx(1e6)
    assert shape.trained_ends == pytest.approx(0, abs=1e-6)
    assert shape.backward == 1
    assert shape.layer_weights == pytest.approx(LLAMA.layer_weights + expert)
    plan = setup("fp32", micro_batch=1, global_batch=1)
    assert layer_bytes(shape, plan) * 1024 == pytest.approx(5e9)
    assert layer_bytes(shape, setup(micro_batch=1, global_batch=1)) * 1024 == pytest.approx(2.5e9)
    assert json.loads(json.dumps(asdict(shape))) == asdict(shape)  # a sweep writes it down


def test_experts_whose_work_was_not_counted_are_refused() -> None:
    with pytest.raises(InputError, match="it is measured, not predicted"):
        Shape.of_facts(ModelFacts(**LLAMA_FACTS, experts=8, active_experts=2), seq_len=8192)


@given(layers=st.lists(st.integers(1, 200), min_size=1, max_size=5))
def test_arrays_are_taken_element_by_element(layers: list[int]) -> None:
    def shape(depth: object) -> Shape:
        return Shape(width=64, layers=depth, heads=4, kv_heads=4, hidden=256, seq_len=32, vocab=100)

    assert list(shape(np.array(layers)).parameters) == [shape(depth).parameters for depth in layers]
