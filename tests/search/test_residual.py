from __future__ import annotations

import math
import random

import numpy as np
import pytest

from harness.search.residual import Corrected, Residual, expected_improvement

PLANS = [{"kind": kind, "size": size} for kind in ("a", "b", "c") for size in (1, 2, 4, 8)]


def error(plan: dict[str, object]) -> float:
    """What the invented prediction is wrong by: kind "b" takes twice as long as it says."""
    return math.log(2.0) if plan["kind"] == "b" else 0.0


def test_without_trials_a_prediction_is_taken_as_it_is() -> None:
    mean, deviation = Residual([], []).at(PLANS)
    assert list(mean) == [0.0] * len(PLANS)
    assert (deviation > 0.1).all()


def test_an_error_of_a_knob_is_carried_over_to_plans_that_share_it() -> None:
    seen = [plan for plan in PLANS if plan["size"] in (1, 8)]
    mean, _ = Residual(seen, [error(plan) for plan in seen]).at([{"kind": "b", "size": 2}, {"kind": "a", "size": 2}])
    assert mean[0] == pytest.approx(math.log(2.0), abs=0.15)
    assert mean[1] == pytest.approx(0.0, abs=0.15)


def test_what_was_measured_is_more_certain_than_what_was_not() -> None:
    residual = Residual(PLANS[:6], [error(plan) for plan in PLANS[:6]])
    _, deviation = residual.at([PLANS[0], PLANS[11]])
    assert deviation[0] < deviation[1]


def test_noise_alone_moves_no_prediction_far() -> None:
    rng = random.Random(0)
    mean, _ = Residual(PLANS, [rng.gauss(0, 0.02) for _ in PLANS]).at(PLANS)
    assert np.abs(mean).max() < 0.04


def test_one_trial_moves_the_others_less_than_itself() -> None:
    mean, _ = Residual(PLANS[:1], [0.3]).at([PLANS[0], PLANS[11]])
    assert mean[0] > mean[1] >= 0.0


def test_expected_improvement_grows_with_a_lower_mean_and_with_doubt() -> None:
    found = expected_improvement(np.array([0.9, 1.1, 1.1]), np.array([0.05, 0.05, 0.5]), 1.0)
    assert found[0] > found[1]
    assert found[2] > found[1]
    assert expected_improvement(np.array([0.5]), np.array([1e-9]), 1.0)[0] == pytest.approx(0.5)


def test_what_all_amounts_have_in_common_is_found() -> None:
    predicted = [100.0 * (1 + number) for number in range(len(PLANS))]
    corrected = Corrected(PLANS[:9], predicted[:9], [amount + 300.0 for amount in predicted[:9]])
    assert corrected.common == pytest.approx(300.0, rel=0.35)
    amounts, deviation = corrected.at(PLANS[9:], predicted[9:])
    assert amounts == pytest.approx([amount + 300.0 for amount in predicted[9:]], rel=0.1)
    assert (deviation < 0.1).all()


def test_amounts_that_are_off_by_a_factor_have_nothing_in_common() -> None:
    predicted = [100.0 * (1 + number) for number in range(len(PLANS))]
    assert Corrected(PLANS, predicted, [1.1 * amount for amount in predicted]).common == 0.0


def test_amounts_without_trials_are_taken_as_they_are() -> None:
    amounts, deviation = Corrected([], [], []).at(PLANS[:2], [3.0, 5.0])
    assert list(amounts) == [3.0, 5.0]
    assert (deviation > 0.1).all()
