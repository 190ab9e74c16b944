from __future__ import annotations

import math
import random

import pytest
import scipy.stats

from harness.nightly.series import (
    SCREEN,
    change_point,
    confirm,
    control_slope,
    screen,
    slow_variance,
    trimmed_mean,
    winsorised_deviation,
)


def normal(rng: random.Random, count: int, middle: float = 0.0, spread: float = 0.02) -> list[float]:
    return [rng.gauss(middle, spread) for _ in range(count)]


def test_a_flat_night_is_suspected_as_often_as_the_level_says() -> None:
    rng = random.Random(1)
    hits = sum(screen(normal(rng, 30), rng.gauss(0, 0.02)) for _ in range(2000))
    assert SCREEN - 0.02 < hits / 2000 < SCREEN + 0.03


def test_the_confirmation_agrees_with_scipys_trimmed_welch_where_nothing_is_slow() -> None:
    rng = random.Random(2)
    for _ in range(20):
        baseline, fresh = normal(rng, 30), normal(rng, 10, 0.02)
        if slow_variance(baseline) == 0:
            exact = scipy.stats.ttest_ind(fresh, baseline, equal_var=False, trim=0.2, alternative="greater")
            assert confirm(baseline, fresh).p == pytest.approx(exact.pvalue, rel=1e-6)


def test_an_effect_is_relative_and_positive_where_it_is_worse() -> None:
    found = confirm([0.0] * 12, [math.log(1.05)] * 8)
    assert found.effect == pytest.approx(0.05)
    assert found.p == 0.0
    assert confirm([0.0] * 12, [-0.01] * 8).p == 1.0


def test_one_spike_in_ten_sessions_decides_nothing() -> None:
    rng = random.Random(3)
    assert confirm(normal(rng, 30), [*normal(rng, 9), 0.5]).p > 0.01


def test_slow_drift_widens_what_must_be_exceeded() -> None:
    rng = random.Random(4)
    drift, level = [], 0.0
    for _ in range(30):
        level = 0.95 * level + rng.gauss(0, 0.006)
        drift.append(level + rng.gauss(0, 0.002))
    fast = normal(rng, 30, spread=winsorised_deviation(drift))
    fresh = [0.03] * 3 + normal(rng, 9, 0.03, 0.002)
    assert slow_variance(drift) > 2 * slow_variance(fast)
    assert confirm(drift, fresh).smallest > confirm(fast, fresh).smallest


def test_a_spike_does_not_move_the_middle_nor_the_spread_much() -> None:
    rng = random.Random(5)
    values = normal(rng, 30)
    spiked = [*values[:-1], 1.0]
    assert trimmed_mean(spiked) == pytest.approx(trimmed_mean(values), abs=0.005)
    assert winsorised_deviation(spiked) == pytest.approx(winsorised_deviation(values), rel=0.35)
    assert winsorised_deviation(normal(rng, 5000)) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("at", [10, 25, 38])
def test_a_change_is_dated(at: int) -> None:
    rng = random.Random(at)
    found = change_point([*normal(rng, at), *normal(rng, 45 - at, 0.10)])
    assert found is not None
    assert abs(found.at - at) <= 1
    assert found.p < 0.05


def test_a_flat_series_has_no_change_to_speak_of() -> None:
    rng = random.Random(6)
    small = sum(found.p < 0.05 for seed in range(60) if (found := change_point(normal(rng, 40), seed)) is not None)
    assert small <= 8


def test_a_short_series_is_not_dated() -> None:
    assert change_point([1.0] * 7) is None


def test_the_canarys_share_of_a_metric_is_its_slope() -> None:
    rng = random.Random(7)
    canary = normal(rng, 40, spread=0.05)
    assert control_slope(canary, [0.8 * c + rng.gauss(0, 0.001) for c in canary]) == pytest.approx(0.8, abs=0.02)
    assert control_slope(canary, [-c for c in canary]) == 0.0
    assert control_slope([0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0
    assert control_slope([1.0], [1.0]) == 0.0
    steady = normal(rng, 40, spread=0.0005)  # tells nothing of how a slower machine would show
    assert control_slope(steady, normal(rng, 40)) > 0.9
