from __future__ import annotations

import pytest

from harness.records import STEPS, TRIALS, row
from harness.trial.summary import curve, measured, plan_columns, step_rows, step_times, training_seconds
from strategies import Setting
from tests.tiny import gpt, plan
from tests.trial.fakes import event, phase, step, trace, whole


def test_the_step_time_is_the_median_over_the_slowest_rank_of_each_step() -> None:
    fast = [step(n, n, 0.1) for n in range(4, 9)]
    mixed = [step(n, n, 0.1 * n) for n in range(4, 8)]
    seen = trace(fast, mixed)
    assert step_times(seen) == pytest.approx([0.4, 0.5, 0.6, 0.7])
    columns = measured(seen)
    assert columns["step_time_s"] == pytest.approx(0.55)
    assert columns["measured_steps"] == 4
    tokens = gpt().tokens_per_step
    assert columns["tokens_per_s"] == pytest.approx(tokens / 0.55)
    assert (columns["tokens_per_s_low"], columns["tokens_per_s_high"]) == pytest.approx((tokens / 0.7, tokens / 0.4))


def test_warm_up_steps_are_recorded_but_not_measured() -> None:
    seen = trace([step(n, n, 9.0) for n in range(4)] + [step(4, 5.0, 0.2)])
    assert step_times(seen) == [0.2]
    assert [r["phase"] for r in step_rows("t", seen)] == ["warmup"] * 4 + ["measure"]


def test_the_curve_is_the_mean_over_the_ranks_that_see_a_loss() -> None:
    seen = trace(
        [step(0, 1, loss=4.0, grad_norm=1.0), step(1, 2, loss=3.0, grad_norm=2.0)],
        [step(1, 2, loss=None, grad_norm=2.0), step(0, 1, loss=2.0, grad_norm=1.0)],
    )
    assert (curve(seen).loss, curve(seen).grad_norm) == ([3.0, 3.0], [1.0, 2.0])
    assert (measured(seen)["loss_first"], measured(seen)["loss_last"]) == (3.0, 3.0)


def test_the_accuracy_is_the_mean_of_the_ranks_last_steps() -> None:
    seen = trace([step(0, 1, accuracy=0.1), step(1, 2, accuracy=0.5)], [step(1, 2, accuracy=0.7)])
    assert measured(seen)["accuracy_last"] == pytest.approx(0.6)


def test_memory_and_communication_are_those_of_the_worst_rank() -> None:
    state = {"memory_params_bytes": 10, "memory_grads_bytes": 30, "comm_bytes_per_step": 7}
    other = {"memory_params_bytes": 20, "memory_grads_bytes": 5, "comm_bytes_per_step": 7}
    columns = measured(trace([event("state", 1.0, **state), *whole()], [event("state", 1.0, **other), *whole()]))
    assert [columns[name] for name in state] == [20, 30, 7]
    assert (columns["peak_memory_bytes"], columns["peak_reserved_bytes"]) == (1000, 2000)


def test_phases_begin_when_the_last_rank_enters_them() -> None:
    seen = trace(whole(0.0), whole(0.5), ended=8.0)
    columns = measured(seen)
    names = ("launch_s", "setup_s", "warmup_s", "measure_s", "teardown_s")
    assert [columns[name] for name in names] == pytest.approx([1.5, 1.0, 1.0, 3.0, 1.5])
    assert training_seconds(seen) == pytest.approx(4.0)


def test_of_a_trial_that_failed_only_what_was_reached_is_known() -> None:
    columns = measured(trace([phase("build", 1.0), phase("warmup", 3.0)], [phase("build", 2.0)], exits=[(1, 1)]))
    assert columns == {"launch_s": 2.0}
    assert training_seconds(trace([], [])) == 0.0
    assert measured(trace([], [])) == {}


def test_the_columns_of_a_plan_fill_a_row() -> None:
    settings: dict[str, Setting] = {"dp": 2, "pp": 2, "data_parallel": "zero2", "bucket_mb": 4.0, "micro_batch_size": 1}
    columns = plan_columns(plan(settings), gpt())
    expected = {**settings, "pp_schedule": "1f1b", "grad_accumulation": 4, "world_size": 4, "global_batch_size": 8}
    assert {name: columns[name] for name in expected} == expected
    known = {"trial_id": "t", "outcome": "ok", "started_at": 0, "numerics": "pass", "torch_version": "2"}
    assert row(TRIALS, {**columns, **known, **measured(trace(whole(), whole()))})["outcome_reason"] is None


def test_the_columns_of_strategies_that_are_not_used_are_empty() -> None:
    columns = plan_columns(plan({"micro_batch_size": 4}), gpt())
    assert (columns["pp_schedule"], columns["bucket_mb"], columns["grad_accumulation"]) == (None, None, 2)


def test_there_is_a_row_for_each_step_and_rank() -> None:
    rows = step_rows("t", trace(whole(steps=6), whole(steps=5)))
    assert [(r["rank"], r["step"]) for r in rows] == [*((0, n) for n in range(6)), *((1, n) for n in range(5))]
    assert {r["tokens"] for r in rows} == {gpt().tokens_per_step}
    assert all(row(STEPS, r)["trial_id"] == "t" for r in rows)
