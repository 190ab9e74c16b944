"""When a measured window has seen enough. Pure functions of step times, the same on every rank and in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from harness.launchers.job import Measurement
from harness.statistics import median_at_least, relative_half_width, warmup_length

RACING_CONFIDENCE = 0.96
"""One-sided: five steps that are all slower than the rival are enough (1 - 1/2^5 = 0.97)."""
RACING_MARGIN = 0.05
"""How much slower than the rival's interval the steps must be. The interval is that of one launch, and fresh launches
of the same plan differ by some per cent more (benchmarks/README.md)."""


class Stop(StrEnum):
    """Why a measured window ended."""

    PRECISION = "precision"
    """The interval of its median is as narrow as asked for."""
    BUDGET = "budget"
    """Its time is spent, and the interval is wider."""
    STEPS = "steps"
    """The largest number of steps is done."""
    SLOWER = "slower"
    """Its interval lies wholly beyond that of the best plan so far."""


def why_stop(times: Sequence[float], settings: Measurement) -> Stop | None:
    """Whether a window with these steps may end, and why.

    Args:
        times: of every step since the window opened, on the slowest rank, in s.
        settings: precision, budget, the best plan so far.
    """
    steady = times[warmup_length(times) :]
    if len(steady) < settings.min_steps:
        return Stop.STEPS if len(times) >= settings.max_steps else None
    if _slower(steady, settings.rival_step_time_s):
        return Stop.SLOWER
    long_enough = sum(steady) >= min(settings.least_seconds, settings.seconds)
    if settings.precision is not None and long_enough and relative_half_width(steady) <= settings.precision:
        return Stop.PRECISION
    if sum(steady) >= settings.seconds:
        return Stop.BUDGET
    return Stop.STEPS if len(times) >= settings.max_steps else None


def _slower(steady: Sequence[float], rival_s: float | None) -> bool:
    if rival_s is None:
        return False
    surely = median_at_least(steady, RACING_CONFIDENCE)
    return surely is not None and surely > rival_s * (1 + RACING_MARGIN)
