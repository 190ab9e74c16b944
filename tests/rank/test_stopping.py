from __future__ import annotations

import random

import pytest

from harness.launchers.job import Measurement
from harness.rank.stopping import RACING_MARGIN, Stop, why_stop

STEADY = [0.1, 0.1005, 0.0995, 0.1002, 0.0998]


def test_too_few_steps_decide_nothing() -> None:
    settings = Measurement(min_steps=5, seconds=0.0, precision=0.5, rival_step_time_s=0.001)
    assert why_stop(STEADY[:4], settings) is None


def test_a_narrow_interval_is_enough() -> None:
    settings = Measurement(seconds=100.0, precision=0.02)
    assert why_stop(STEADY, settings) is None  # five steps give no interval of 95 %
    assert why_stop([*STEADY, 0.1], settings) is Stop.PRECISION


def test_without_a_precision_the_budget_ends_a_window() -> None:
    assert why_stop(STEADY * 4, Measurement(seconds=100.0)) is None
    assert why_stop(STEADY * 4, Measurement(seconds=1.9)) is Stop.BUDGET


def test_an_imprecise_window_ends_with_its_budget_and_says_so() -> None:
    rough = [0.1, 0.2, 0.15, 0.11, 0.19, 0.13, 0.17]
    assert why_stop(rough, Measurement(seconds=1.0, precision=0.02)) is Stop.BUDGET


def test_the_largest_number_of_steps_ends_a_window() -> None:
    assert why_stop(STEADY, Measurement(max_steps=5, seconds=100.0)) is Stop.STEPS


def test_a_window_wholly_beyond_the_rival_ends_early() -> None:
    beyond = min(STEADY) / (1 + RACING_MARGIN) * 0.999
    assert why_stop(STEADY, Measurement(seconds=100.0, rival_step_time_s=beyond)) is Stop.SLOWER
    assert why_stop(STEADY, Measurement(seconds=100.0, rival_step_time_s=min(STEADY))) is None


def test_one_fast_step_keeps_a_plan_in_the_race() -> None:
    settings = Measurement(seconds=100.0, rival_step_time_s=0.08)
    assert why_stop([0.2, 0.2, 0.07, 0.2, 0.2], settings) is None


def test_slow_first_steps_do_not_lose_the_race() -> None:
    settings = Measurement(seconds=100.0, rival_step_time_s=0.1)
    assert why_stop([0.5, 0.5, 0.5, *STEADY], settings) is None


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_plan_as_fast_as_its_rival_is_hardly_ever_ended_early(noise: float) -> None:
    rng = random.Random(1)
    settings = Measurement(seconds=4.0, precision=0.02, rival_step_time_s=0.1)
    ended = 0
    for _ in range(300):
        times: list[float] = []
        while (stop := why_stop(times, settings)) is None:
            times.append(0.1 * rng.lognormvariate(0.0, noise))
        ended += stop is Stop.SLOWER
    assert ended <= 3
