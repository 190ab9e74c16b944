"""Statistics of measured steps and of launches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CLIP_MADS = 3.0
"""How far above the median a step may lie before it counts as a spike when the warm-up is sought, in median absolute
deviations (scaled to a normal distribution's standard deviation)."""
FEWEST_TO_CUT = 8
"""Steps below which no warm-up is sought."""


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
    k = max(1, _rank(n, (1 - confidence) / 2))
    return ordered[k - 1], ordered[n - k]


def median_at_least(values: Sequence[float], confidence: float) -> float | None:
    """The largest of `values` that the population's median exceeds with at least `confidence`; None if none does.

    One-sided: the order statistic x(k) lies below the median with probability 1 - P(Binomial(n, 1/2) < k).
    """
    k = _rank(len(values), 1 - confidence)
    return sorted(values)[k - 1] if k else None


def _rank(n: int, tail: float) -> int:
    """The largest k <= n/2 with P(Binomial(n, 1/2) < k) <= `tail`; 0 if there is none."""
    below, k = 0.0, 0
    while k < n // 2:
        below += math.comb(n, k) / 2**n
        if below > tail:
            break
        k += 1
    return k


def relative_half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median over the median; infinite for fewer than six values."""
    if len(values) < 6:
        return math.inf
    low, high = median_interval(values)
    return (high - low) / 2 / median(values)


def warmup_length(times: Sequence[float]) -> int:
    """How many steps at the beginning are slower than what follows: the warm-up that was not counted beforehand.

    The cut with the smallest standard error of the rest (MSER, White 1997, "An effective truncation heuristic for bias
    reduction in simulation output"), sought in the first half, over times without their spikes. It counts only if the
    steps before it are slower than the rest's 95 % interval: on steady times it would cut at random.
    """
    n = len(times)
    if n < FEWEST_TO_CUT:
        return 0
    clipped = _without_spikes(times)
    best, cut = math.inf, 0
    total = squares = 0.0
    for at in reversed(range(n)):
        total, squares = total + clipped[at], squares + clipped[at] ** 2
        left = n - at
        if at <= n // 2:
            error = max(0.0, squares - total**2 / left) / left**2
            if error <= best:
                best, cut = error, at
    slower = cut > 0 and median(times[:cut]) > median_interval(times[cut:])[1]
    return cut if slower else 0


def _without_spikes(times: Sequence[float]) -> list[float]:
    half = times[len(times) // 2 :]
    middle = median(half)
    spread = 1.4826 * median([abs(value - middle) for value in half])
    # The first half keeps its height: there a high value may be the warm-up itself.
    limit = middle + CLIP_MADS * spread
    return [*times[: len(times) // 2], *(min(value, limit) for value in half)]


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees of freedom.

    Exact for one and two; else the expansion around the normal quantile (Abramowitz and Stegun 26.7.5), within 0.2 %
    of the exact value between the 1 % and 99 % quantiles.
    """
    if freedom < 1:
        raise ValueError(f"freedom >= 1 must hold, but got {freedom}")
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return float((2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability))))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


@dataclass(frozen=True)
class Spread:
    """How much fresh launches of one plan differ."""

    deviation: float
    """Standard deviation of the logarithm of a launch's median: relative, 0.01 is one per cent."""
    freedom: int
    """Degrees of freedom it is known with."""

    def call(self, launches: float) -> float:
        """The difference of two plans' mean logarithms, of so many launches each, beyond which they are told apart."""
        return t_quantile(CALLED, self.freedom) * self.deviation * math.sqrt(2 / launches)

    def at_least(self) -> Spread:
        """As small as the spread may still be: the lower end of its one-sided 80 % interval (Wilson and Hilferty 1931
        for the quantile of chi squared)."""
        third = 2 / (9 * self.freedom)
        most = self.freedom * (1 - third + NormalDist().inv_cdf(0.8) * math.sqrt(third)) ** 3
        return Spread(self.deviation * math.sqrt(self.freedom / most), self.freedom)

    def surely(self, launches: float) -> float:
        """Likewise, beyond which more launches would be wasted."""
        return t_quantile(SURE, self.freedom) * self.deviation * math.sqrt(2 / launches)

    def smallest_difference(self, launches: float) -> float:
        """The relative difference between two plans of so many launches each that is told apart with a probability of
        95 % (Cohen, Statistical Power Analysis, section 2.4).
        """
        power = t_quantile(SEEN, self.freedom) * self.deviation * math.sqrt(2 / launches)
        return math.expm1(self.call(launches) + power)


CALLED = 0.9875
"""One-sided level of the test that tells plans apart. 2.5 % in all instead of 5 %: a sweep looks after each round
whether it knows enough, and stops sooner where the spread was underestimated. Simulated with normal noise the rule
tells 2 to 6 % of equal plans apart (benchmarks/finals_simulated.py)."""
SURE = 0.9975
"""One-sided level at which a sweep stops launching plans to tell them apart: it may stop after any round, so each look
must be surer than the last word."""
SEEN = 0.95
"""Probability with which the smallest difference is told apart."""


def pooled_spread(groups: Sequence[Sequence[float]]) -> Spread | None:
    """The spread within groups of logarithms, all groups together; None if no group has two values."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    means = [sum(group) / len(group) for group in several]
    squares = sum((value - mean) ** 2 for group, mean in zip(several, means, strict=True) for value in group)
    return Spread(math.sqrt(squares / freedom), freedom)


@dataclass(frozen=True)
class Blocks:
    """Plans that were launched in rounds, when each round has a level of its own."""

    levels: Mapping[str, float]
    """Plan -> its mean over all rounds, those in which it was not launched as the others say that they would have been.
    """
    spread: Spread
    """What is left between launches when the levels of plans and of rounds are taken away."""
    variances: Mapping[tuple[str, str], float]
    """Of the difference of two plans' levels, in units of one launch's variance."""

    def common(self, one: str, other: str) -> float:
        """Rounds with both of two plans that would tell as much of their difference as all rounds do."""
        return 2.0 / self.variances[one, other]


def blocks(rounds: Sequence[Mapping[str, float]]) -> Blocks | None:
    """What rounds say about plans: what a machine's mood does to a whole round cancels between the plans in it.

    Least squares of plan + round, also where rounds miss some plans (Scheffe 1959, The Analysis of Variance, chapter 4;
    with whole rounds it is the randomised complete blocks of Fisher, The Design of Experiments).

    Args:
        rounds: of each round plan -> logarithm of its launch; rounds with one plan say nothing and are left out.

    Returns:
        None where nothing is left to spread, or the plans have no common rounds.
    """
    useful = [line for line in rounds if len(line) > 1]
    plans = list(dict.fromkeys(plan for line in useful for plan in line))
    cells = [(plans.index(plan), at, value) for at, line in enumerate(useful) for plan, value in line.items()]
    design = np.zeros((len(cells), len(plans) + len(useful)))
    for row, (plan, at, _) in enumerate(cells):
        design[row, plan] = design[row, len(plans) + at] = 1.0
    values = np.array([value for *_, value in cells])
    if not cells:
        return None
    fitted, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    freedom = len(cells) - int(rank)
    if freedom < 1 or rank < len(plans) + len(useful) - 1:  # too few, or groups of plans that never met
        return None
    left = float(np.sum((values - design @ fitted) ** 2))
    middle = float(np.mean(fitted[len(plans) :]))
    levels = {plan: float(fitted[at]) + middle for at, plan in enumerate(plans)}
    known = np.linalg.pinv(design.T @ design)
    variances = {
        (one, other): float(known[i, i] + known[j, j] - 2 * known[i, j])
        for (i, one), (j, other) in itertools.permutations(enumerate(plans), 2)
    }
    return Blocks(levels, Spread(math.sqrt(left / freedom), freedom), variances)
