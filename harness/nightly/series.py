"""Has a series become worse? Screening one night, confirming on fresh sessions, dating a change.

Everything works on logarithms of a metric, so that a difference is relative, and with larger meaning worse.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import scipy.stats

SCREEN = 0.05
"""One-sided level of the screen: a hit only orders fresh sessions."""
CONFIRM = 0.001
"""Level of the confirmation on fresh sessions: chosen by simulation (benchmarks/nightly_simulated.py)."""
TRIM = 0.2
"""Share of the values cut off at each end: a spike in one session in eight must not decide."""
NOTHING = 1e-9
"""A relative spread below this is rounding: the values are equal."""
LAGS = 3
"""Lags whose autocovariance tells how much of the spread between nights is slow."""
SLOPE_SPREAD = 0.3
"""How far a metric's share of the canary's change is expected to lie from 1, as a standard deviation."""
PERMUTATIONS, BLOCK = 999, 6
"""Of the change point's test; nights of a block, which keep their order, because neighbours are alike."""


@dataclass(frozen=True)
class Confirmed:
    """What fresh sessions say."""

    effect: float
    """Relative change of the trimmed mean, positive is worse."""
    p: float
    """One-sided: the probability of so large an effect where nothing changed."""
    smallest: float
    """The relative change that would have been confirmed with a probability of 80 %."""


def trimmed_mean(values: Sequence[float]) -> float:
    """Mean without the share TRIM of the smallest and of the largest values."""
    return float(scipy.stats.trim_mean(values, TRIM))


def screen(baseline: Sequence[float], tonight: float) -> bool:
    """Whether a night lies above the baseline's one-sided prediction interval.

    The interval of one further value of a normal population (Hahn and Meeker, Statistical Intervals, section 3.4),
    with a spread from which spikes are cut.
    """
    n = len(baseline)
    middle, spread = trimmed_mean(baseline), winsorised_deviation(baseline)
    limit = float(scipy.stats.t.ppf(1 - SCREEN, n - 1)) * spread * math.sqrt(1 + 1 / n)
    return tonight > middle + limit


def winsorised_deviation(values: Sequence[float]) -> float:
    """Standard deviation of values whose ends are drawn in, scaled to that of a normal population.

    For two values or none it is zero.
    """
    ordered, n = sorted(values), len(values)
    if n < 3:
        return 0.0
    cut = int(TRIM * n)
    drawn_in = [min(max(value, ordered[cut]), ordered[n - 1 - cut]) for value in ordered]
    middle = sum(drawn_in) / n
    return math.sqrt(sum((value - middle) ** 2 for value in drawn_in) / (n - 1)) / _SCALE


def slow_variance(baseline: Sequence[float]) -> float:
    """The part of the variance between nights that neighbours share: fresh sessions of one night do not average it out.

    Mean autocovariance over the first lags, of values whose spikes are drawn in; at least zero.
    """
    ordered, n = sorted(baseline), len(baseline)
    if n < 2 * LAGS:
        return 0.0
    cut = max(1, int(0.05 * n))
    values = [min(max(value, ordered[cut]), ordered[n - 1 - cut]) for value in baseline]
    middle = sum(values) / n
    products = [
        sum((values[at] - middle) * (values[at + lag] - middle) for at in range(n - lag)) / n
        for lag in range(1, LAGS + 1)
    ]
    return max(0.0, sum(products) / LAGS)


def confirm(baseline: Sequence[float], fresh: Sequence[float]) -> Confirmed:
    """Compare fresh sessions with the baseline.

    Yuen's test: Welch's on trimmed means (Yuen 1974, "The two-sample trimmed t for unequal population variances"), its
    variance widened by the slow part of the baseline's, which the sessions of one night share.

    Args:
        baseline: one value a night.
        fresh: one value a session; none of them caused the suspicion.
    """
    parts = [_squared_error(values) for values in (baseline, fresh)]
    slow = slow_variance(baseline)
    variance = sum(error for error, _ in parts) + slow * (1 + 1 / len(baseline))
    effect = trimmed_mean(fresh) - trimmed_mean(baseline)
    if variance < NOTHING**2:
        return Confirmed(math.expm1(effect), 0.0 if effect > 0 else 1.0, 0.0)
    # The slow part is known from the baseline, with as many degrees of freedom.
    terms = [*parts, (slow, len(baseline) - 1)]
    freedom = variance**2 / sum(error**2 / degrees for error, degrees in terms if degrees > 0)
    error = math.sqrt(variance)
    quantiles = [float(scipy.stats.t.ppf(level, freedom)) for level in (1 - CONFIRM, 0.8)]
    p = float(scipy.stats.t.sf(effect / error, freedom))
    return Confirmed(math.expm1(effect), p, math.expm1(sum(quantiles) * error))


def _squared_error(values: Sequence[float]) -> tuple[float, float]:
    """(squared standard error of the trimmed mean, its degrees of freedom)."""
    n = len(values)
    kept = n - 2 * int(TRIM * n)
    if kept < 2:
        return 0.0, 0.0
    spread = winsorised_deviation(values) * _SCALE
    return (n - 1) * spread**2 / (kept * (kept - 1)), kept - 1.0


def _normal_winsorised() -> float:
    """Standard deviation of a standard normal value that is drawn in at the 20 % and 80 % quantiles."""
    z = float(scipy.stats.norm.ppf(1 - TRIM))
    inside = 1 - 2 * TRIM - 2 * z * float(scipy.stats.norm.pdf(z))
    return math.sqrt(inside + 2 * TRIM * z**2)


_SCALE = _normal_winsorised()


@dataclass(frozen=True)
class ChangePoint:
    """Where a series changed most."""

    at: int
    """Number of the first value after the change."""
    p: float
    """How often shuffled blocks of the series show as large a change."""


def change_point(values: Sequence[float], seed: int = 0) -> ChangePoint | None:
    """The most likely beginning of a lasting change, by the cumulative sum of ranks; None for fewer than eight values.

    The statistic is the largest |S_k| / sqrt(k (n - k)) with S_k the sum of the first k centred ranks (Pettitt 1979,
    "A non-parametric approach to the change-point problem", standardised); its p-value is from permutations of blocks
    of neighbouring values, so that slow drift is no change.
    """
    n = len(values)
    if n < 8:
        return None
    ranks = [float(rank) for rank in scipy.stats.rankdata(values)]
    at, largest = _largest(ranks)
    rng = random.Random(seed)
    blocks = [ranks[begin : begin + BLOCK] for begin in range(0, n, BLOCK)]
    as_large = 0
    for _ in range(PERMUTATIONS):
        rng.shuffle(blocks)
        as_large += _largest([rank for block in blocks for rank in block])[1] >= largest
    return ChangePoint(at, (as_large + 1) / (PERMUTATIONS + 1))


def _largest(ranks: Sequence[float]) -> tuple[int, float]:
    n, middle = len(ranks), (len(ranks) + 1) / 2
    total, at, largest = 0.0, 1, -1.0
    for k in range(1, n):
        total += ranks[k - 1] - middle
        height = abs(total) / math.sqrt(k * (n - k))
        if height > largest:
            at, largest = k, height
    return at, largest


def control_slope(canary: Sequence[float], values: Sequence[float]) -> float:
    """How much of the canary's change a metric shares, between 0 and 1. The metric less so much of the canary's change
    is what is judged (a control variate; Lavenberg and Welch 1981).

    The slope of a regression through the baseline's nights, drawn towards 1 the more, the less the nights tell: what
    slows a whole machine slows both alike, and a steady machine's nights tell next to nothing.
    """
    n = len(values)
    if n < 3:
        return 0.0
    x, y = sum(canary) / n, sum(values) / n
    square = sum((c - x) ** 2 for c in canary)
    if square < NOTHING**2:
        return 0.0
    slope = sum((c - x) * (v - y) for c, v in zip(canary, values, strict=True)) / square
    rest = sum((v - y - slope * (c - x)) ** 2 for c, v in zip(canary, values, strict=True)) / (n - 2)
    known, expected = square / max(rest, NOTHING**2), 1 / SLOPE_SPREAD**2
    return min(1.0, max(0.0, (known * slope + expected) / (known + expected)))
