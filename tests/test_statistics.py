from __future__ import annotations

import math
import random
import statistics as reference

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import (
    Spread,
    blocks,
    median,
    median_at_least,
    median_interval,
    pooled_spread,
    t_quantile,
    warmup_length,
)

samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def coverage(n: int, low: int, high: int) -> float:
    """Probability that the median lies between the order statistics `low` and `high`, counted from 1."""
    return float(sum(math.comb(n, k) for k in range(low, high)) / 2**n)


@given(samples)
def test_the_median_is_that_of_the_standard_library(values: list[float]) -> None:
    assert median(values) == reference.median(values)


@given(samples, st.randoms())
def test_the_interval_encloses_the_median_in_whatever_order(values: list[float], random: object) -> None:
    low, high = median_interval(values)
    assert min(values) <= low <= median(values) <= high <= max(values)
    random.shuffle(values)  # type: ignore[attr-defined]
    assert median_interval(values) == (low, high)


@given(st.integers(6, 400), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_interval_is_the_narrowest_that_is_confident_enough(n: int, confidence: float) -> None:
    low, high = (int(edge) for edge in median_interval([float(i) for i in range(1, n + 1)], confidence))
    assert low + high == n + 1
    assert coverage(n, low, high) >= confidence
    assert low + 1 > high - 1 or coverage(n, low + 1, high - 1) < confidence


@pytest.mark.parametrize("n", [1, 2, 5])
def test_with_few_values_the_interval_is_all_of_them(n: int) -> None:
    assert median_interval([float(i) for i in range(n)]) == (0.0, n - 1.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 6, 10, 30])
@pytest.mark.parametrize("probability", [0.025, 0.5, 0.8, 0.975])
def test_students_quantiles_are_those_of_scipy(freedom: int, probability: float) -> None:
    exact = scipy.stats.t.ppf(probability, freedom)
    assert t_quantile(probability, freedom) == pytest.approx(exact, rel=2e-3, abs=1e-9)


def test_no_degrees_of_freedom_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="freedom >= 1 must hold, but got 0"):
        t_quantile(0.975, 0)


def test_the_smallest_difference_is_called_in_nineteen_of_twenty_cases() -> None:
    rng, spread = random.Random(3), Spread(0.01, 10**6)
    shift = math.log1p(spread.smallest_difference(5))
    called = {0.0: 0, shift: 0}
    for true in called:
        for _ in range(2000):
            means = [sum(rng.gauss(at, 0.01) for _ in range(5)) / 5 for at in (0.0, true)]
            called[true] += abs(means[1] - means[0]) > spread.call(5)
    assert 0.94 < called[shift] / 2000 < 0.96
    assert 0.02 < called[0.0] / 2000 < 0.04


def test_the_spread_within_rounds_is_the_residual_of_plans_and_rounds() -> None:
    rng = random.Random(1)
    squares = []
    for _ in range(400):
        moods = [rng.gauss(0, 0.5) for _ in range(5)]
        plans = {"a": 0.0, "b": 1.0, "c": 7.0}
        found = blocks([{plan: mood + at + rng.gauss(0, 0.02) for plan, at in plans.items()} for mood in moods])
        assert found is not None
        assert found.spread.freedom == 8
        squares.append(found.spread.deviation**2)
    assert math.sqrt(sum(squares) / 400) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    "rounds",
    [[], [{"a": 1.0, "b": 2.0}], [{"a": 1.0}, {"a": 2.0}], [{"a": 1, "b": 2}, {"c": 1, "d": 2}, {"a": 1, "b": 2.5}]],
)
def test_without_two_rounds_of_the_same_plans_nothing_is_left_to_spread(rounds: list[dict[str, float]]) -> None:
    assert blocks(rounds) is None


def test_a_plan_that_left_after_some_rounds_is_compared_as_if_it_had_stayed() -> None:
    moods = (0.0, 0.1, -0.2, 0.3)
    rounds = [{"a": mood + 1.0, "b": mood + 0.5} | ({"c": mood + 0.2} if mood >= 0 else {}) for mood in moods]
    found = blocks(rounds)
    assert found is not None
    assert found.levels == pytest.approx(
        {plan: at + sum(moods) / 4 for plan, at in {"a": 1, "b": 0.5, "c": 0.2}.items()}
    )
    assert found.spread.freedom == 11 - (3 + 4 - 1)
    assert found.spread.deviation < 1e-9


def test_a_spread_is_hardly_ever_smaller_than_its_least() -> None:
    rng = random.Random(3)
    smaller = 0
    for _ in range(1000):
        drawn = [rng.gauss(0, 1.0) for _ in range(4)]
        known = pooled_spread([drawn])
        assert known is not None
        smaller += known.at_least().deviation > 1.0
    assert 150 < smaller < 250


def test_there_is_no_spread_without_a_plan_launched_twice() -> None:
    assert pooled_spread([[1.0], []]) is None


@pytest.mark.parametrize("warmup", [1, 3, 6])
def test_slow_steps_at_the_beginning_are_warm_up(warmup: int) -> None:
    rng = random.Random(warmup)
    found = []
    for _ in range(100):
        noise = [rng.lognormvariate(0.0, 0.03) for _ in range(24)]
        found.append(warmup_length([value * (1.5 if at < warmup else 1.0) for at, value in enumerate(noise)]))
    assert sum(cut >= warmup for cut in found) >= 70
    assert sum(found) / 100 <= warmup + 2


def test_steady_steps_have_little_warm_up() -> None:
    rng = random.Random(5)
    cuts = [warmup_length([rng.lognormvariate(0.0, 0.05) for _ in range(20)]) for _ in range(200)]
    assert sum(cuts) / 200 < 1.5


def test_a_spike_in_the_middle_is_no_warm_up() -> None:
    assert warmup_length([1.0, 1.01, 0.99, 1.0, 1.01, 3.0, 1.0, 0.99, 1.0, 1.01, 1.0, 0.99]) == 0


def test_few_steps_have_no_warm_up() -> None:
    assert warmup_length([5.0, 1.0, 1.0, 1.0, 1.0]) == 0


@pytest.mark.parametrize(("steps", "at_least"), [(4, None), (5, 1.0), (8, 2.0)])
def test_the_median_surely_lies_above_a_low_order_statistic(steps: int, at_least: float | None) -> None:
    # Five steps all above a value: the median lies below it with probability 1/32 only.
    assert median_at_least([float(n) for n in range(1, steps + 1)], 0.96) == at_least
