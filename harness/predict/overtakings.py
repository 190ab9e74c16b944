"""At which interconnect another strategy would be the fastest: predicted for a machine that has but one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.labels import kind
from harness.plan import Plan
from harness.predict.devices import Device
from harness.predict.setup import Setup
from harness.predict.shape import Shape
from harness.predict.time import step_time

FACTORS = np.geomspace(1 / 32, 32, 41)
"""Multiples of the bandwidth between ranks that are looked at."""


@dataclass(frozen=True)
class Overtaking:
    """Two strategies that change their order as the fastest."""

    below: str
    """The fastest one with less bandwidth."""
    above: str
    factor: float
    """Multiple of this machine's bandwidth at which they are equally fast."""


def overtakings(
    shape: Shape, plans: Sequence[Plan], global_batch: int, device: Device, correction: NDArray[np.float64]
) -> list[Overtaking]:
    """Where the fastest kind of plan changes as the bandwidth between ranks does.

    Args:
        shape: the model.
        plans: candidates.
        global_batch: samples of a step.
        device: as measured.
        correction: measured over predicted step time of each plan, as far as it is known.
    """
    if not plans or not math.isfinite(device.link_bandwidth):
        return []
    setup = Setup.stack([Setup.of_plan(plan, global_batch) for plan in plans])
    kinds = np.array([kind(plan) for plan in plans])
    names = sorted(set(kinds))
    best = np.array([_best(shape, setup, _with(device, factor), correction, kinds, names) for factor in FACTORS])
    leaders = [names[at] for at in np.argmin(best, axis=1)]
    found = []
    for at in range(1, len(FACTORS)):
        one, other = leaders[at - 1], leaders[at]
        if one != other:
            before, after = (math.log(best[i, names.index(one)] / best[i, names.index(other)]) for i in (at - 1, at))
            share = before / (before - after) if before != after else 0.5
            middle = math.log(FACTORS[at - 1]) + share * math.log(FACTORS[at] / FACTORS[at - 1])
            found.append(Overtaking(one, other, math.exp(middle)))
    return found


def _best(
    shape: Shape,
    setup: Setup,
    device: Device,
    correction: NDArray[np.float64],
    kinds: NDArray[np.str_],
    names: Sequence[str],
) -> list[float]:
    seconds = np.broadcast_to(step_time(shape, setup, device).total, correction.shape) * correction
    return [float(seconds[kinds == name].min()) for name in names]


def _with(device: Device, factor: float) -> Device:
    return replace(
        device,
        link_bandwidth=factor * device.link_bandwidth,
        network_bandwidth=factor * device.network_bandwidth,
    )
