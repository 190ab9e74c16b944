from __future__ import annotations

from typing import Any

import pytest

from harness.plan import Plan
from harness.predict import this_machine
from harness.search.spaces import Point
from harness.sweeps.forecast import Forecaster, between, fits
from harness.workloads.cnn import Cnn, load_digits
from tests.predict.test_this_machine import calibration
from tests.tiny import facts, gpt, plan

WORKLOAD = gpt()
PLANS = [
    plan({"dp": 2, "data_parallel": kind, "micro_batch_size": size, "precision": precision})
    for kind in ("ddp", "zero1", "zero3")
    for size in (1, 2, 4)
    for precision in ("fp32", "bf16")
]


def forecaster(**options: Any) -> Forecaster:
    return Forecaster(
        device=this_machine.measured(calibration(), 2, 1 << 30),
        workloads={8: (WORKLOAD, facts(WORKLOAD, 2))},
        **options,
    )


def point(of: Plan) -> Point:
    return Point(8, of)


def row(made: Forecaster, of: Plan, time: float = 1.0, memory: float = 1.0) -> dict[str, Any]:
    """A trial that was so many times as slow and as large as the closed form says."""
    closed = made.closed(point(of))
    assert closed is not None
    return {"step_time_s": time * closed.step_time_s, "peak_memory_bytes": memory * closed.peak_memory_bytes}


def test_trials_correct_the_prediction_of_plans_like_them() -> None:
    made = forecaster()
    for of in (*PLANS[:3], *PLANS[4:12]):
        made.learn(point(of), row(made, of, time=1.5, memory=2.0))
    closed, found = made.closed(point(PLANS[3])), made.forecast(point(PLANS[3]))
    assert closed is not None
    assert found is not None
    assert found.step_time_s == pytest.approx(1.5 * closed.step_time_s, rel=0.1)
    assert found.peak_memory_bytes == pytest.approx(2.0 * closed.peak_memory_bytes, rel=0.2)


def test_predicted_columns_are_those_of_the_store() -> None:
    from harness.store.records import TRIALS

    columns = forecaster().columns(point(PLANS[0]))
    assert set(columns) <= {column.name for column in TRIALS}
    assert columns["predicted_step_time_s"] > 0
    assert columns["predicted_memory_params_bytes"] > 0


@pytest.mark.parametrize(("objective", "count"), [("throughput", 1), ("memory", 1), ("pareto", 2), ("time-to-loss", 1)])
def test_there_is_one_value_for_each_objective(objective: str, count: int) -> None:
    values = forecaster(objective=objective).values(point(PLANS[0]))
    assert values is not None
    assert len(values) == count
    assert min(values) > 0


def test_a_plan_that_is_predicted_not_to_fit_is_refused_in_one_sentence() -> None:
    made = forecaster(limit_bytes=1000)
    reasons = [made.why_not(point(of)) for of in PLANS]
    assert sum(reason is None for reason in reasons) <= len(PLANS) / 4
    assert "it is predicted to need" in str(next(filter(None, reasons)))


def test_near_the_limit_only_a_launch_tells_and_more_so_the_less_is_known() -> None:
    assert [fits(between(100.0, 0.1), limit) for limit in (50.0, 90.0, 110.0, 200.0)] == [False, None, None, True]
    assert fits(between(100.0, 0.01), 90.0) is False
    assert fits(between(100.0, 0.5), 200.0) is None


def test_what_surely_fits_trials_must_have_said() -> None:
    made = forecaster()
    untaught = made.forecast(point(PLANS[0]))
    assert untaught is not None
    limit = 2 * untaught.peak_memory_bytes
    assert (untaught.fits(limit), untaught.fits(2 * limit), untaught.fits(limit / 4)) == (None, True, False)
    for of in PLANS:
        made.learn(point(of), row(made, of))
    taught = made.forecast(point(PLANS[0]))
    assert taught is not None
    assert taught.fits(limit) is True


def test_of_many_plans_that_do_not_fit_about_one_in_twenty_is_launched_anyway() -> None:
    made = forecaster(limit_bytes=1000)
    many = [
        plan({"dp": 2, "data_parallel": "ddp", "bucket_mb": 0.5 + number / 10, "micro_batch_size": size})
        for number in range(100)
        for size in (1, 2, 4)
    ]
    launched = sum(made.why_not(point(of)) is None for of in many)
    assert 0.02 < launched / len(many) < 0.09


def test_what_fits_is_not_refused_and_without_a_limit_nothing_is() -> None:
    assert {forecaster(limit_bytes=1 << 40).why_not(point(of)) for of in PLANS} == {None}
    assert {forecaster().why_not(point(of)) for of in PLANS} == {None}


def test_trials_that_needed_less_let_more_plans_be_launched() -> None:
    made = forecaster()
    of = PLANS[0]
    closed = made.closed(point(of))
    assert closed is not None
    made.limit_bytes = int(0.7 * closed.peak_memory_bytes)
    others = [other for other in PLANS if made.why_not(point(other)) is not None]
    assert others
    for other in PLANS:
        made.learn(point(other), row(made, other, memory=0.5))
    assert all(made.why_not(point(other)) is None for other in others if _small(made, other))


def _small(made: Forecaster, of: Plan) -> bool:
    closed = made.closed(point(of))
    return closed is not None and 0.55 * closed.peak_memory_bytes < (made.limit_bytes or 0)


def test_nothing_is_said_of_a_model_without_layers_or_a_machine_without_a_calibration() -> None:
    cnn = Cnn(name="cnn", global_batch_size=8, digits=load_digits())
    blind = Forecaster(device=None, workloads={8: (WORKLOAD, facts(WORKLOAD, 2))})
    other = Forecaster(device=this_machine.measured(calibration(), 2, 1 << 30), workloads={8: (cnn, facts(cnn, 2))})
    for made in (blind, other):
        made.learn(point(PLANS[0]), {"step_time_s": 1.0, "peak_memory_bytes": 1.0})
        assert made.forecast(point(PLANS[0])) is None
        assert made.values(point(PLANS[0])) is None
        assert made.columns(point(PLANS[0])) == {}
        assert made.why_not(point(PLANS[0])) is None
