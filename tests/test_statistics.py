from __future__ import annotations

import math
import statistics as reference

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import median, median_interval

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
