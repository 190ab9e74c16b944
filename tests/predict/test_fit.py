import dataclasses

import numpy as np
import pytest

from harness.predict.devices import device
from harness.predict.fit import (
    PRIORS,
    Observed,
    constant_mfu,
    errors,
    fit,
    kendall_tau,
    leave_out,
    regret,
)
from harness.predict.setup import Setup
from harness.predict.time import step_time
from tests.predict.plans import MODEL, setup

A100 = device("A100-80")
TRUE = dataclasses.replace(
    A100, efficiency=dataclasses.replace(A100.efficiency, matmul_share=0.6, network_share=0.8, host_layer_s=1e-3)
)
PLANS = Setup.stack(
    [
        setup(tp=tp, dp=dp, pp=pp, micro_batch=mb, global_batch=256, data_parallel="ddp")
        for tp in (1, 4, 16)
        for dp in (1, 8, 16)
        for pp in (1, 4)
        for mb in (1, 4)
    ]
)


def made_up(noise: float = 0.0) -> Observed:
    exact = step_time(MODEL, PLANS, TRUE).total
    return Observed(shape=MODEL, setup=PLANS, seconds=exact * np.exp(np.random.default_rng(1).normal(0, noise, 36)))


def test_steps_of_a_known_device_give_its_constants_back() -> None:
    found = fit(A100, [made_up()], ["matmul_share", "network_share", "host_layer_s"], trust=0.01).efficiency
    assert found.matmul_share == pytest.approx(TRUE.efficiency.matmul_share, rel=0.01)
    assert found.network_share == pytest.approx(TRUE.efficiency.network_share, rel=0.01)
    assert found.host_layer_s == pytest.approx(TRUE.efficiency.host_layer_s, rel=0.01)


def test_a_fit_to_noisy_steps_predicts_the_exact_ones() -> None:
    found = fit(A100, [made_up(noise=0.03)])
    assert errors(made_up().predicted(found), made_up().seconds).mape < 0.03


def test_one_odd_step_hardly_moves_a_fit() -> None:
    plain = made_up()
    odd = dataclasses.replace(plain, seconds=np.where(np.arange(36) == 3, 3, 1) * plain.seconds)
    share, shifted = (fit(A100, [o]).efficiency.matmul_share for o in (plain, odd))
    assert shifted == pytest.approx(share, rel=0.05)


def test_without_steps_the_priors_stay() -> None:
    found = fit(A100, [], ["matmul_share", "half_dim"])
    assert found.efficiency.matmul_share == pytest.approx(PRIORS["matmul_share"][0])
    assert found.efficiency.half_dim == pytest.approx(PRIORS["half_dim"][0])


def test_a_left_out_group_is_predicted_without_its_own_steps() -> None:
    right = made_up()
    wrong = dataclasses.replace(right, seconds=2 * right.seconds)
    predicted = leave_out(A100, {"right": right, "wrong": wrong})
    assert errors(predicted["wrong"], right.seconds).mape < 0.05
    assert errors(predicted["right"], wrong.seconds).mape < 0.05


def test_errors_are_relative() -> None:
    found = errors(np.array([1.1, 2.0, 2.7]), np.array([1.0, 2.0, 3.0]))
    assert found.mape == pytest.approx(0.2 / 3)
    assert found.median == pytest.approx(0.1)


def test_one_utilisation_predicts_steps_that_have_the_same_one() -> None:
    work = np.array([1.0, 2.0, 4.0])
    assert constant_mfu(work, 3 * work) == pytest.approx(3 * work)
    assert constant_mfu(work, np.array([2.0, 4.0, 4.0]))[2] == pytest.approx(8.0)


def test_rankings_agree_from_minus_one_to_one_and_need_two() -> None:
    up = np.array([1.0, 2.0, 3.0])
    assert kendall_tau(up, 10 * up) == pytest.approx(1)
    assert kendall_tau(up, -up) == pytest.approx(-1)
    assert kendall_tau(up[:1], up[:1]) is None


def test_regret_is_what_the_predicted_best_takes_beyond_the_best() -> None:
    assert regret(np.array([1.0, 2.0]), np.array([3.0, 2.0])) == pytest.approx(0.5)
    assert regret(np.array([3.0, 2.0]), np.array([3.0, 2.0])) == 0
