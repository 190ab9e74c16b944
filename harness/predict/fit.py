"""Fits what data sheets do not say to measured steps, and judges predictions of steps that were not fitted.

The constants of `Efficiency` are fitted in log space, so that an error of 5 % of a short step counts like one of a long
step. Their priors come from data sheets and are weak: they decide where steps say nothing. A soft L1 loss lets single
odd steps be odd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.predict.devices import Device, Efficiency
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time

Floats = NDArray[np.float64]

PRIORS: dict[str, tuple[float, float]] = {
    "matmul_share": (0.8, 0.15),
    "half_dim": (80.0, 0.7),
    "attention_share": (0.5, 0.3),
    "memory_share": (0.9, 0.15),
    "host_layer_s": (3e-3, 0.7),
    "host_collective_s": (3e-5, 0.7),
    "link_share": (0.8, 0.3),
    "link_latency_s": (5e-5, 0.7),
    "network_share": (0.95, 0.1),
    "network_latency_s": (3e-5, 1.0),
    "optimizer_bytes": (28.0, 0.3),
    "logit_bytes": (40.0, 0.3),
    "fixed_s": (5e-3, 1.0),
}
"""Constant -> its value before any step is seen, and the standard deviation of its logarithm. Shares: what the vendors'
libraries reach of a data sheet. Bytes: reads and writes of Adam's fp32 state, and of fp32 logits. Times: orders of
magnitude."""

SCALE = 0.06
"""Relative error from which on a step counts as odd: about the spread of steps that differ in nothing modelled."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Steps measured on one kind of device."""

    shape: Shape
    setup: Setup
    seconds: Floats
    """Measured step times, one for each element of the arrays in `shape` and `setup`."""
    weight: float = 1.0
    """Of each residual; smaller where steps share what they were composed of."""

    def predicted(self, device: Device) -> Floats:
        """Step times in seconds that `device` predicts."""
        return np.broadcast_to(step_time(self.shape, self.setup, device).total, self.seconds.shape)


def fit(
    device: Device, observed: Sequence[Observed], names: Sequence[str] = tuple(PRIORS), *, trust: float = 1.0
) -> Device:
    """The device with the efficiency that explains measured steps best.

    Args:
        device: its data sheet; constants that are not fitted keep their values.
        observed: measured steps.
        names: the constants to fit.
        trust: in the priors; near 0 to let a few steps decide one constant.
    """
    from scipy.optimize import least_squares

    def residuals(deviations: Floats) -> Floats:
        known = _with(device, dict(zip(names, deviations, strict=True)))
        parts = [o.weight * _softened(np.log(o.predicted(known) / o.seconds)) for o in observed]
        return np.concatenate([*parts, trust * deviations])

    found = least_squares(residuals, np.zeros(len(names)))
    return _with(device, dict(zip(names, found.x, strict=True)))


def leave_out(
    device: Device,
    groups: Mapping[str, Observed],
    always: Sequence[Observed] = (),
    names: Sequence[str] = tuple(PRIORS),
    *,
    trust: float = 1.0,
) -> dict[str, Floats]:
    """Step times of each group, predicted from a fit to the other groups and to what `always` counts."""
    return {
        name: group.predicted(fit(device, [*always, *(g for n, g in groups.items() if n != name)], names, trust=trust))
        for name, group in groups.items()
    }


def _with(device: Device, deviations: Mapping[str, float]) -> Device:
    """The device whose constants lie so many standard deviations from their priors."""
    values = {name: PRIORS[name][0] * float(np.exp(x * PRIORS[name][1])) for name, x in deviations.items()}
    efficiency: Efficiency = replace(device.efficiency, **values)
    return replace(device, efficiency=efficiency)


def _softened(residuals: Floats) -> Floats:
    """Residuals whose squares are the soft L1 loss of the given ones, in units of SCALE."""
    z = np.asarray(residuals / SCALE, dtype=np.float64)
    softened: Floats = np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z * z) - 1))
    return softened


@dataclass(frozen=True, kw_only=True)
class Errors:
    """How far predictions are from measurements."""

    mape: float
    """Mean absolute relative error."""
    median: float
    """Its median."""
    p95: float
    """Its 95th percentile."""


def errors(predicted: Floats, measured: Floats) -> Errors:
    """Relative errors of predictions; both in the same unit."""
    off = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return Errors(mape=float(off.mean()), median=float(np.median(off)), p95=float(np.percentile(off, 95)))


def constant_mfu(flops_per_device: Floats, seconds: Floats) -> Floats:
    """Step times from one utilisation for all, that of the other steps: the baseline of every prediction.

    Args:
        flops_per_device: model FLOPs of a step over its devices.
        seconds: measured step times.
    """
    rates = flops_per_device / seconds
    if len(rates) < 2:
        return np.asarray(seconds, dtype=float)
    others: Floats = (rates.sum() - rates) / (len(rates) - 1)
    return np.divide(flops_per_device, others)


def kendall_tau(predicted: Floats, measured: Floats) -> float | None:
    """Agreement of two rankings, 1 for the same one, -1 for the opposite (tau-b); None where nothing is ranked."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(predicted, measured).statistic) if len(measured) > 1 else float("nan")
    return None if np.isnan(tau) else tau


def regret(predicted: Floats, measured: Floats) -> float:
    """How much longer than the shortest step the one takes that was predicted to be the shortest."""
    return float(measured[int(np.argmin(predicted))] / np.min(measured) - 1)
