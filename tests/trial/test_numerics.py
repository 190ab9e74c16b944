from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from harness.trial.numerics import LOSS_TOLERANCE, Curve, compare, tolerance
from strategies import Choice

FP32 = {"precision": "fp32", "quantization": "none"}
curves = st.lists(st.floats(0.1, 100.0), min_size=1, max_size=12)


def test_fp32_losses_may_differ_by_1e_4_and_gradient_norms_by_1e_3() -> None:
    reference = Curve([4.0, 3.0], [2.0, 1.0])
    assert tolerance(FP32) == 1e-4
    assert compare(Curve([4.0, 3.0 * 1.00009], [2.0 * 1.0009, 1.0]), reference, FP32, 2).passed
    assert not compare(Curve([4.0, 3.0 * 1.00011], [2.0, 1.0]), reference, FP32, 2).passed
    assert not compare(Curve([4.0, 3.0], [2.0 * 1.0011, 1.0]), reference, FP32, 2).passed


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"precision": "bf16_autocast"}, 5e-3),
        ({"precision": "fp32", "quantization": "float8"}, 2e-2),
        ({"precision": "bf16", "quantization": "adamw8bit", "reduce_dtype": "fp32"}, 1e-2),
        ({"precision": "bf16_autocast", "reduce_dtype": "bf16", "dp": 2}, 5e-3),
    ],
)
def test_the_loosest_number_format_of_a_plan_counts(settings: dict[str, str], limit: float) -> None:
    assert tolerance(settings) == limit


def test_every_number_format_of_the_strategies_has_a_tolerance() -> None:
    for knob in strategies.knobs(strategies.registry().values()):
        if knob.name in LOSS_TOLERANCE:
            assert isinstance(knob, Choice)
            assert set(knob.values) == set(LOSS_TOLERANCE[knob.name])


def test_a_plan_in_fp32_is_followed_for_as_long_as_the_reference_goes() -> None:
    reference = Curve([4.0, 3.0, 2.0], [1.0, 1.0, 1.0])
    late = Curve([4.0, 3.0, 2.0], [1.0, 1.0, 2.0])
    verdict = compare(late, reference, FP32, 2)
    assert verdict.reason == "gradient norm of step 2 is 2 where one process in fp32 has 1; 0.01 relative is allowed"
    assert compare(Curve([4.0, 3.0, 2.0 * 1.0009], [1.0, 1.0, 1.009]), reference, FP32, 2).passed
    assert compare(Curve([*late.loss, 9.0], [1.0, 1.0, 1.0, 9.0]), reference, FP32, 2).passed


def test_a_plan_in_fewer_bits_is_compared_in_the_first_steps_alone() -> None:
    reference = Curve([4.0, 3.0, 2.0], [1.0, 1.0, 1.0])
    assert compare(Curve([4.0, 3.0, 1.0], [1.0, 1.0, 2.0]), reference, {"precision": "bf16"}, 2).passed


def test_the_reason_names_the_first_step_that_differs_and_both_values() -> None:
    verdict = compare(Curve([4.0, 3.5, 9.0], [1.0, 1.0, 1.0]), Curve([4.0, 3.0, 2.0], [1.0, 1.0, 1.0]), FP32, 3)
    assert verdict.reason == "loss of step 1 is 3.5 where one process in fp32 has 3; 0.0001 relative is allowed"
    assert verdict.max_rel_error == pytest.approx(3.5)


def test_a_gradient_of_twice_the_size_fails_though_the_losses_agree() -> None:
    verdict = compare(Curve([4.0, 3.0], [2.0, 2.0]), Curve([4.0, 3.0], [1.0, 1.0]), FP32, 2)
    assert verdict.reason is not None
    assert "gradient norm of step 0 is 2 where one process in fp32 has 1; 0.001 relative" in verdict.reason


def test_steps_after_those_compared_do_not_count() -> None:
    assert compare(Curve([4.0, 7.0], [1.0, 7.0]), Curve([4.0, 3.0], [1.0, 1.0]), {"precision": "bf16"}, 1).passed


@given(curves, st.data())
def test_a_value_that_is_not_finite_fails(losses: list[float], data: st.DataObject) -> None:
    broken = list(losses)
    broken[data.draw(st.integers(0, len(losses) - 1))] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    verdict = compare(Curve(broken, losses), Curve(losses, losses), FP32, len(losses))
    assert not verdict.passed
    assert verdict.max_rel_error == math.inf


@given(curves)
def test_a_curve_agrees_with_itself(losses: list[float]) -> None:
    verdict = compare(Curve(losses, losses), Curve(losses, losses), FP32, len(losses))
    assert (verdict.passed, verdict.max_rel_error, verdict.reason) == (True, 0.0, None)


@given(curves, st.floats(0.5, 2.0))
def test_it_passes_exactly_if_the_largest_error_is_within_the_tolerance(losses: list[float], factor: float) -> None:
    verdict = compare(Curve([x * factor for x in losses], losses), Curve(losses, losses), FP32, len(losses))
    assert verdict.passed == (verdict.max_rel_error <= verdict.tolerance)
    assert verdict.max_rel_error == pytest.approx(abs(factor - 1), abs=1e-9)


def test_a_reference_in_another_format_allows_what_that_format_does() -> None:
    loose = Curve([4.0], [1.0], "twin", "another plan", tolerance=1e-2)
    assert compare(Curve([4.03], [1.0]), loose, FP32, 1).passed
    found = compare(Curve([4.05], [1.0]), loose, FP32, 1)
    assert found.reason == "loss of step 0 is 4.05 where another plan has 4; 0.01 relative is allowed"
