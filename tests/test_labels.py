from __future__ import annotations

from typing import Any

from harness.labels import kind, labels, settings
from tests.report.rows import trial


def names(*plans: dict[str, Any]) -> list[str]:
    return list(labels([trial(f"t{i}", plan=plan) for i, plan in enumerate(plans)]).values())


def test_a_lone_plan_is_named_by_strategy_and_degrees() -> None:
    assert names({}) == ["ddp dp2"]


def test_only_what_differs_is_named() -> None:
    assert names({"micro_batch_size": 4}, {"micro_batch_size": 8}) == ["ddp dp2 · mb 4", "ddp dp2 · mb 8"]


def test_a_knob_of_one_strategy_is_named_only_where_its_trials_differ() -> None:
    zero = {"data_parallel": "zero2"}
    found = names({"bucket_mb": 25.0}, {**zero, "bucket_mb": 1.0}, {**zero, "bucket_mb": 8.0})
    assert found == ["ddp dp2", "zero2 dp2 · bucket 1 MB", "zero2 dp2 · bucket 8 MB"]


def test_a_value_that_most_plans_of_a_strategy_have_is_not_named() -> None:
    found = names({"bucket_mb": 25.0, "micro_batch_size": 1}, {"bucket_mb": 25.0}, {"bucket_mb": 8.0})
    assert found == ["ddp dp2 · mb 1", "ddp dp2 · mb 4", "ddp dp2 · mb 4 · bucket 8 MB"]


def test_a_switch_is_named_by_what_it_is() -> None:
    found = names({"static_graph": True, "compile": "block"}, {"static_graph": False})
    assert found == ["ddp dp2 · compile block · static graph", "ddp dp2 · no static graph"]


def test_what_a_plan_does_without_is_not_named() -> None:
    assert names({"activation_checkpoint": "full"}, {}) == ["ddp dp2 · checkpoint full", "ddp dp2"]


def test_names_are_unique_even_if_a_plan_ran_twice() -> None:
    assert names({}, {}, {}) == ["ddp dp2", "ddp dp2 (2)", "ddp dp2 (3)"]


def test_several_global_batches_are_told_apart() -> None:
    found = labels([trial("a1", global_batch_size=8), trial("b2", global_batch_size=16)])
    assert list(found.values()) == ["ddp dp2 · batch 8", "ddp dp2 · batch 16"]


def test_unreadable_settings_fall_back_to_the_columns() -> None:
    row = trial("a1", knobs="not json")
    assert settings(row)["micro_batch_size"] == 4
    assert labels([row]) == {"a1": "ddp dp2"}


def test_a_plan_without_data_parallelism_has_the_kind_of_its_model_parallelism() -> None:
    model = {"data_parallel": "none", "dp": 1}
    assert kind(trial("a1", plan={**model, "tp": 2})) == "tensor_parallel"
    assert kind(trial("a1", plan={**model, "pp": 2})) == "pipeline_parallel"
    assert kind(trial("a1", plan=model)) == "one process"
