from __future__ import annotations

import pytest

from harness.launchers.events import Event
from harness.store.records import STEPS, TRIALS, row
from harness.trial.summary import curve, measured, plan_columns, profiled, step_rows, training_seconds, window_tokens
from strategies import Setting
from tests.tiny import gpt, plan
from tests.trial.fake_ranks import event, phase, step, trace, whole


def test_the_step_time_is_the_median_over_the_slowest_rank_of_each_step() -> None:
    fast = [step(n, n, 0.1) for n in range(4, 9)]
    mixed = [step(n, n, 0.1 * n) for n in range(4, 8)]
    seen = trace(fast, mixed)
    columns = measured(seen)
    assert columns["step_time_s"] == pytest.approx(0.55)
    assert columns["measured_steps"] == 4
    tokens = gpt().tokens_per_step
    assert columns["tokens_per_s"] == pytest.approx(tokens / 0.55)
    assert (columns["tokens_per_s_low"], columns["tokens_per_s_high"]) == pytest.approx((tokens / 0.7, tokens / 0.4))


def test_warm_up_steps_are_recorded_but_not_measured() -> None:
    seen = trace([step(n, n, 9.0) for n in range(4)] + [step(4, 5.0, 0.2)])
    assert (measured(seen)["step_time_s"], measured(seen)["measured_steps"]) == (0.2, 1)
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


def test_steps_that_the_window_finds_slower_at_its_beginning_are_warm_up() -> None:
    steady = [0.1, 0.101, 0.099] * 4
    times = [0.3, 0.2, *steady]
    seen = trace([step(n, n, 9.0) for n in range(4)] + [step(4 + n, 4.0 + n, t) for n, t in enumerate(times)])
    columns = measured(seen)
    assert (columns["warmup_steps"], columns["measured_steps"]) == (6, 12)
    assert columns["step_time_s"] == pytest.approx(0.1)
    assert [r["phase"] for r in step_rows("t", seen)] == ["warmup"] * 6 + ["measure"] * 12
    assert window_tokens(seen) == 14 * gpt().tokens_per_step


def state(params: int, grads: int, sent: int, **fields: int | str) -> Event:
    others = dict.fromkeys(("memory_optimizer_bytes", "memory_buffers_bytes", "memory_activations_bytes"), 1)
    known = {"memory_params_bytes": params, "memory_grads_bytes": grads, "comm_bytes_per_step": sent}
    return event("state", 1.0, **{**others, **known, **fields})


def test_memory_by_category_is_that_of_the_rank_with_the_most_tensors() -> None:
    ranks = [
        [state(10, 30, 7, memory_tensor_peak_bytes=43, memory_grads_held_bytes=30), *whole()],
        [state(20, 5, 9, memory_tensor_peak_bytes=28, memory_grads_held_bytes=50), *whole()],
    ]
    columns = measured(trace(*ranks))
    assert (columns["memory_params_bytes"], columns["memory_grads_bytes"]) == (10, 30)
    assert (columns["memory_tensor_peak_bytes"], columns["memory_grads_held_bytes"]) == (43, 50)
    assert (columns["peak_memory_bytes"], columns["peak_reserved_bytes"]) == (1000, 2000)


def test_communication_is_that_of_the_busiest_rank_and_its_time_that_of_the_one_that_waits_longest() -> None:
    times = ((3.0, 1.0), (2.0, 1.5))
    profiles = [event("profile", 2.0, comm_s=all_, comm_exposed_s=exposed) for all_, exposed in times]
    ranks = [
        [state(1, 1, 7, comm_by_collective="a"), profiles[0]],
        [state(1, 1, 9, comm_by_collective="b"), profiles[1]],
    ]
    seen = trace(*ranks)
    assert (measured(seen)["comm_bytes_per_step"], measured(seen)["comm_by_collective"]) == (9, "b")
    assert profiled(seen) == {"comm_s": 2.0, "comm_exposed_s": 1.5}


def test_what_others_took_of_the_processors_is_what_the_ranks_did_not_use() -> None:
    opened = {"cpu_s": 1.0, "busy_cpu_s": 100.0, "stolen_cpu_s": 5.0, "cpus": 2, "energy_j": 50.0}
    closed = {"cpu_s": 2.5, "busy_cpu_s": 104.0, "stolen_cpu_s": 5.1, "cpus": 2, "energy_j": 80.0}
    ranks = [
        [phase("measure", 10.0, **opened), event("done", 12.0, **closed)],
        [phase("measure", 10.0, cpu_s=0.5, energy_j=1.0), event("done", 12.0, cpu_s=2.0, energy_j=2.0)],
    ]
    columns = measured(trace(*ranks))
    assert columns["foreign_cpu_share"] == pytest.approx((4.0 - 1.5 - 1.5) / (2 * 2.0))
    assert columns["stolen_cpu_share"] == pytest.approx(0.1 / 4.0)
    assert columns["energy_j"] == 31.0


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
    known |= {"plan_id": "p", "knobs": "{}", "schema_version": 8, "harness_version": "1"}
    assert row(TRIALS, {**columns, **known, **measured(trace(whole(), whole()))})["outcome_reason"] is None


def test_the_columns_of_strategies_that_are_not_used_are_empty() -> None:
    columns = plan_columns(plan({"micro_batch_size": 4}), gpt())
    assert (columns["pp_schedule"], columns["bucket_mb"], columns["grad_accumulation"]) == (None, None, 2)


def test_there_is_a_row_for_each_step_and_rank() -> None:
    rows = step_rows("t", trace(whole(steps=6), whole(steps=5)))
    assert [(r["rank"], r["step"]) for r in rows] == [*((0, n) for n in range(6)), *((1, n) for n in range(5))]
    assert {r["tokens"] for r in rows} == {gpt().tokens_per_step}
    assert all(row(STEPS, r)["trial_id"] == "t" for r in rows)
