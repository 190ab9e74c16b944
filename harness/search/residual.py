"""What finished trials say about a prediction: a Gaussian process over what it was wrong by.

The prediction is the mean; the process is about the logarithm of measured over predicted, and is drawn to zero, so that
few trials change little. A knob matters alone and together with others: the covariance of two plans is
    a (mean over knobs of k) + b (product over knobs of k) + noise if they are the same trial,
with k = exp(-difference^2 / 2) of one knob (Duvenaud et al. 2011, arXiv:1112.4394, of orders one and all). The three
variances are those under which the trials are most likely, times a prior that favours small ones (Rasmussen and
Williams 2006, "Gaussian Processes for Machine Learning", chapters 2 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special

from strategies.knob import Setting

Array = npt.NDArray[np.float64]
Settings = Mapping[str, Setting]

ALONE = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Variances of what knobs change one by one."""
TOGETHER = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Variances of what they change together."""
NOISE = (0.0003, 0.001, 0.003)
"""Variances of a measurement, as of its logarithm: 2 to 5 %."""
PRIOR = 0.03
"""Variance that a prediction's error is expected to have; larger ones are less likely."""
COMMON = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""What amounts may have in common beside what is predicted of each, as shares of the mean measured one."""
DIFFERENT = 1.5
"""Distance of two settings that are not numbers, in length scales; of two numbers one for each factor of four."""


class Residual:
    """The error of a prediction, learnt from trials.

    Args:
        plans: of the trials.
        errors: logarithm of measured over predicted, `[trials]`; or those of several predictions,
            `[predictions, trials]`, of which the one is taken under which the trials are likeliest.
    """

    def __init__(self, plans: Sequence[Settings], errors: npt.ArrayLike) -> None:
        self.noise = max(NOISE)
        """Variance of a measurement."""
        self.chosen = 0
        """Which prediction was taken."""
        self._plans = list(plans)
        if not self._plans:
            return
        by_prediction = np.atleast_2d(np.asarray(errors, dtype=np.float64))
        kernels = _kernels(self._plans, self._plans)
        n, best = len(self._plans), -math.inf
        for alone, together, noise in product(ALONE, TOGETHER, NOISE):
            covariance = alone * kernels[0] + together * kernels[1] + noise * np.eye(n)
            factor = scipy.linalg.cho_factor(covariance, lower=True)
            weights = scipy.linalg.cho_solve(factor, by_prediction.T)
            likely = -0.5 * np.einsum("pt,tp->p", by_prediction, weights)
            likely = likely - np.log(np.diag(factor[0])).sum() - (alone + together) / PRIOR
            if likely.max() > best:
                best, self.chosen, self.noise = float(likely.max()), int(likely.argmax()), noise
                self._variances, self._factor, self._weights = (alone, together), factor, weights[:, self.chosen]

    def at(self, plans: Sequence[Settings]) -> tuple[Array, Array]:
        """(mean, standard deviation) of the error at these plans, `[plans]` each."""
        if not self._plans:
            return np.zeros(len(plans)), np.full(len(plans), math.sqrt(PRIOR))
        alone, together = self._variances
        kernels = _kernels(plans, self._plans)
        across = alone * kernels[0] + together * kernels[1]
        mean = across @ self._weights
        known = np.einsum("ij,ji->i", across, scipy.linalg.cho_solve(self._factor, across.T))
        return mean, np.sqrt(np.maximum(alone + together - known, 1e-12))


class Corrected:
    """Predicted amounts, corrected by trials: (predicted + what all have in common) x exp(residual).

    Memory that belongs to no tensor, such as what an allocator keeps and what the inside of a kernel takes, hardly
    grows with a plan's tensors. A factor alone would have to be another one for each plan.

    Args:
        plans: of the trials.
        predicted: amounts, `[trials]`.
        measured: what they were, in the same unit, `[trials]`.
    """

    def __init__(self, plans: Sequence[Settings], predicted: npt.ArrayLike, measured: npt.ArrayLike) -> None:
        self.common = 0.0
        """What is added to each prediction, in its unit."""
        known, seen = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
        if len(plans) == 0:
            self._residual = Residual([], [])
            return
        added = [share * float(seen.mean()) for share in COMMON]
        self._residual = Residual(plans, [np.log(seen / (known + each)) for each in added])
        self.common = added[self._residual.chosen]

    def at(self, plans: Sequence[Settings], predicted: npt.ArrayLike) -> tuple[Array, Array]:
        """(corrected amount, standard deviation of the logarithm of a measurement of it), `[plans]` each."""
        mean, deviation = self._residual.at(plans)
        corrected: Array = (np.asarray(predicted, dtype=np.float64) + self.common) * np.exp(mean)
        return corrected, np.sqrt(deviation**2 + self._residual.noise)


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """By how much a value drawn at each point is expected to lie below `best` (Jones et al. 1998, "Efficient global
    optimization of expensive black-box functions").

    Args:
        mean: of what is minimised, `[points]`.
        deviation: its standard deviation, `[points]`.
        best: lowest value that was seen.
    """
    z = (best - mean) / deviation
    found: Array = deviation * (z * scipy.special.ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))
    return found


def _kernels(some: Sequence[Settings], others: Sequence[Settings]) -> tuple[Array, Array]:
    """(mean over knobs, product over knobs) of the covariance of each knob, `[some, others]` each.

    Knobs in which all plans agree count for neither.
    """
    names = sorted({name for plan in (*some, *others) for name in plan})
    total, whole, knobs = np.zeros((len(some), len(others))), np.ones((len(some), len(others))), 0
    for name in names:
        left, right = ([plan.get(name) for plan in plans] for plans in (some, others))
        if len({*left, *right}) == 1:
            continue
        similar = np.exp(-0.5 * _differences(left, right) ** 2)
        total, whole, knobs = total + similar, whole * similar, knobs + 1
    return (total / knobs if knobs else np.ones_like(total)), whole


def _differences(left: Sequence[Setting | None], right: Sequence[Setting | None]) -> Array:
    values = sorted({*left, *right}, key=lambda value: (str(type(value)), str(value)))
    number = {value: at for at, value in enumerate(values)}
    distance = np.full((len(values), len(values)), DIFFERENT)
    for one, other in product(values, values):
        if one == other:
            distance[number[one], number[other]] = 0.0
        elif _positive(one) and _positive(other):
            distance[number[one], number[other]] = abs(math.log(float(one) / float(other), 4))  # type: ignore[arg-type]
    return distance[np.ix_([number[value] for value in left], [number[value] for value in right])]


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
