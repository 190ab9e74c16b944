"""Small statistics of measured steps."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(values: Sequence[float]) -> float:
    """Middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval that holds the population's median with at least `confidence`, whatever the distribution.

    The order statistics x(k), x(n+1-k) enclose the median with probability 1 - 2 P(Binomial(n, 1/2) < k)
    (Conover, Practical Nonparametric Statistics, section 3.2). With fewer than six values no such interval reaches
    95 %, and the smallest and largest value are returned.
    """
    ordered, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n // 2:
        below += math.comb(n, k) / 2**n
        if 1 - 2 * below < confidence:
            break
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]
